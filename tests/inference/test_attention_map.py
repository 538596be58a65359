"""Where a point of a user's video looks: the numbers by hand, and the command as users type it."""

import json
import math
import shutil
from dataclasses import replace

import cv2
import pytest
import torch
from einops import rearrange

from mvtrack import reshoot_file
from mvtrack.cli.main import main as cli
from mvtrack.geometry.trajectory import CameraPath
from mvtrack.inference.attention_map import AttentionQuery, Lens, best_window, chosen_step, follow_query, place_query
from mvtrack.inference.attention_pair import noise_levels, pair_of_result, pair_of_shot
from mvtrack.inference.forward_noised import noised_videos
from mvtrack.inference.pipeline import Shot
from mvtrack.inference.sampler import SamplerOptions, generate
from mvtrack.models.conditioning import Window
from mvtrack.models.diffusion.flow import sampling_sigmas
from mvtrack.models.hooks import visiting_layers
from mvtrack.models.prompts import Captions, make_prompts
from mvtrack.models.reshoot_model import save_model
from mvtrack.video.reader import open_video
from mvtrack.video.writer import write_video

SHOT = Shot(CameraPath("pan_left"), fit="crop", sample=SamplerOptions(3, seed=4), resolution="model")
T, SIZE = 7, (24, 32)  # of the test video, and of the model's picture


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory, small_model):
    return save_model(small_model, tmp_path_factory.mktemp("model")).parent


@pytest.fixture(scope="module")
def result(video, model_folder, tmp_path_factory):
    return reshoot_file(video, SHOT.path, model_folder, tmp_path_factory.mktemp("result") / "o", SHOT).folder


def row_by_hand(model, run, layer, forward, token, heads=None):
    """One row of the whole attention matrix of one block's `forward`-th call during `run`."""
    calls = []
    with visiting_layers(model.dit, lambda _layer, *heads: calls.append(heads), (layer,)):
        run()
    q, k = (x[0].float().transpose(0, 1) for x in calls[forward])  # (heads, N, d)
    q, k = (q, k) if heads is None else (q[list(heads)], k[list(heads)])
    row = (q @ k.mT / math.sqrt(q.shape[-1])).softmax(-1).mean(0)[token]
    return rearrange(row, "(v f h w) -> v f h w", v=2, h=SIZE[0] // 4, w=SIZE[1] // 4)


def shares(seen) -> torch.Tensor:
    return torch.tensor([[f["share"] for f in seen.record["frames"][view]] for view in ("reference", "generated")])


def test_a_fresh_reshoot_gives_the_attention_of_its_sampling(video, small_model):
    pair = pair_of_shot(video, SHOT, small_model.config)
    seen = follow_query(
        small_model, pair, AttentionQuery(80.5, 46.0, 3, "reference"), Lens(layer=0, step=1, heads=(1,))
    )
    reference = pair.fits[0].apply(pair.reference.read(0, 5, pair.fits[0].scaled))  # the first window holds frame 3

    def run():
        generate(small_model, reference, Window(pair.cameras[:, :5], 4.0), SHOT.sample)

    x, y = 80.5 / 160 * 43 - 5, 46 / 90 * 24  # scaled to 24x43, five columns cut off
    token = (0 * 2 + 1) * 48 + int(y // 4) * 8 + int(x // 4)
    row = row_by_hand(small_model, run, 0, 1, token, (1,))
    torch.testing.assert_close(shares(seen), row.sum((2, 3)), atol=2e-6, rtol=0)
    assert seen.record["sigma"] == pytest.approx(sampling_sigmas(3, 3.0)[1].item(), abs=1e-5)
    assert seen.record["window"] == [0, 5]
    assert seen.record["heads"] == [1]
    for v, view in enumerate(("reference", "generated")):
        for f, frame in enumerate((0, 3)):
            found, cell = seen.record["frames"][view][f], int(row[v, f].flatten().argmax())
            at = torch.tensor([(cell % 8 + 0.5) * 4, (cell // 8 + 0.5) * 4])
            own = (at + torch.tensor([5.0, 0])) / torch.tensor([43 / 160, 24 / 90]) if v == 0 else at
            assert found["frame"] == frame
            assert found["peak_xy"] == pytest.approx(own.tolist(), abs=0.01)
            assert found["peak_probability"] == pytest.approx((row[v, f] / row[v, f].sum()).max().item(), abs=1e-5)


def test_a_result_is_noised_to_the_same_level(result, small_model):
    pair = pair_of_result(result)
    assert (pair.sample.steps, pair.sample.seed, pair.subject_distance) == (3, 4, 4.0)
    seen = follow_query(small_model, pair, AttentionQuery(17.0, 9.5, 6), Lens(step=2))
    fit = pair.fits[0]
    made = open_video(result / "video.mp4").read(2, 7).float() / 127.5 - 1
    videos = torch.stack([fit.apply(pair.reference.read(2, 7, fit.scaled)), made])
    noised = noised_videos(small_model, videos, Window(pair.cameras[:, 2:7], 4.0), seed=4)
    sigma = sampling_sigmas(3, 3.0)[2].item()
    token = (1 * 2 + 1) * 48 + (9 // 4) * 8 + 17 // 4
    row = row_by_hand(small_model, lambda: noised.forward(small_model, sigma), 1, 0, token)
    torch.testing.assert_close(shares(seen), row.sum((2, 3)), atol=2e-6, rtol=0)
    assert seen.frames == [2, 6]
    assert seen.looks.query == (1, 1, 17.0, 9.5)
    assert seen.looks.frames.shape == (2, 2, 3, *SIZE)


def test_a_full_resolution_result_has_the_cameras_of_the_models_picture(video, result, model_folder, tmp_path):
    """Cameras of a result at the source's resolution lead back to those of the model's picture; so do its pixels."""
    made = reshoot_file(video, SHOT.path, model_folder, tmp_path / "o", replace(SHOT, resolution="source")).folder
    large, small = pair_of_result(made), pair_of_result(result)
    assert large.generated.size == (90, 120)
    torch.testing.assert_close(large.cameras.K, small.cameras.K, atol=1e-4, rtol=1e-5)
    torch.testing.assert_close(large.cameras.c2w, small.cameras.c2w)
    centre, corner = torch.tensor([[59.75, 45.0], [0.0, 0.0]])
    torch.testing.assert_close(large.fits[1].to_picture(centre), torch.tensor([16.0, 12.0]), atol=0.2, rtol=0.0)
    torch.testing.assert_close(large.fits[1].to_picture(corner), torch.tensor([0.0, 0.0]), atol=0.2, rtol=0.0)


def test_another_layer_or_noise_gives_other_attention(result, small_model):
    pair, query = pair_of_result(result), AttentionQuery(17.0, 9.5, 6)
    found = [shares(follow_query(small_model, pair, query, lens)) for lens in (Lens(), Lens(layer=0), Lens(step=0))]
    other = replace(pair, sample=SamplerOptions(3, seed=5))
    found.append(shares(follow_query(small_model, other, query, Lens())))
    for i, a in enumerate(found):
        assert all((a - b).abs().max() > 1e-5 for b in found[:i])
        assert a.sum().item() == pytest.approx(1, abs=1e-4)


def told_shares(model, pair, **changes):
    return shares(follow_query(model, replace(pair, **changes), AttentionQuery(17.0, 9.5, 6), Lens(layer=1)))


def test_a_fresh_reshoot_is_told_what_sampling_is_told(video, told_model):
    """The caption, and with guidance what to steer away from: otherwise another video would be looked into."""
    shot = replace(SHOT, caption="a red ball", negative="fog", sample=SamplerOptions(3, guidance=4.0, seed=4))
    pair = pair_of_shot(video, shot, told_model.config)
    reference = pair.fits[0].apply(pair.reference.read(2, 7, pair.fits[0].scaled))
    prompts = make_prompts(told_model.config, reference[0], Captions("a red ball", "fog", 4.0))

    def run():
        generate(told_model, reference, Window(pair.cameras[:, 2:7], 4.0, prompts), shot.sample)

    # of the middle step, the guided prediction: the third of six forwards
    row = row_by_hand(told_model, run, 1, 2, 3 * 48 + (9 // 4) * 8 + 17 // 4)
    found = told_shares(told_model, pair)
    torch.testing.assert_close(found, row.sum((2, 3)), atol=1e-5, rtol=0)
    for change in ({"caption": None}, {"negative": None}, {"sample": replace(shot.sample, guidance=1.0)}):
        other = told_shares(told_model, pair, **({"negative": None} if "sample" in change else {}) | change)
        assert (other - found).abs().max() > 1e-5, change


def test_a_result_is_seen_with_its_own_caption(video, told_model, tmp_path, capsys):
    folder = save_model(told_model, tmp_path / "model").parent
    shot = replace(SHOT, caption="a red ball", sample=SamplerOptions(1, guidance=3.0))
    made = reshoot_file(video, SHOT.path, folder, tmp_path / "r", shot).folder
    pair = pair_of_result(made)
    assert pair.caption == "a red ball"
    found = told_shares(told_model, pair)
    assert (told_shares(told_model, pair, caption=None) - found).abs().max() > 1e-4
    ask = [made, "--query", "17,9.5,6", "--layer", 1, "--overwrite", "--out", tmp_path / "o"]
    for options, caption in (([], "a red ball"), (["--caption", "fog"], "fog"), (["--caption", ""], "")):
        assert run(capsys, *ask, *options)[0] == 0
        record = json.loads((tmp_path / "o/attention.json").read_text())
        assert record["caption"] == caption
        told = [[f["share"] for f in record["frames"][view]] for view in ("reference", "generated")]
        torch.testing.assert_close(torch.tensor(told), told_shares(told_model, pair, caption=caption))


def test_one_step_sampling_is_seen_at_eight_noise_levels():
    assert [noise_levels(steps) for steps in (1, 2, 3, 50)] == [8, 2, 3, 50]
    step, sigma = chosen_step(Lens(), noise_levels(1), shift=3.0)
    assert (step, sigma) == (4, 0.75)


def test_windows_and_steps():
    spans = [(0, 17), (13, 30), (20, 37)]
    assert [best_window(spans, t)[0] for t in (0, 12, 14, 16, 23, 29, 36)] == [0, 0, 0, 13, 13, 20, 20]
    assert chosen_step(Lens(), 8, 3.0)[0] == 4
    assert chosen_step(Lens(noise_level=1.0), 8, 3.0) == (0, 1.0)
    assert chosen_step(Lens(noise_level=0.1), 8, 3.0)[0] == 7


@pytest.mark.parametrize(("fit", "low", "high"), [("crop", 18.6047, 137.6744), ("pad", 0, 160), ("stretch", 0, 160)])
def test_the_whole_visible_picture_can_be_asked_for(video, small_model, fit, low, high):
    pair = pair_of_shot(video, replace(SHOT, fit=fit), small_model.config)
    content, place = pair.fits[0].content, pair.fits[0].place
    for x, y in ((low + 1e-3, 0.0), (high - 1e-3, 89.999)):
        px, py = place_query(pair, AttentionQuery(x, y, 0, "reference"))
        assert place[1] <= px < place[1] + content[1]
        assert place[0] <= py < place[0] + content[0]
    for x in (low - 0.01, high + 0.01):
        with pytest.raises(ValueError, match=r"outside the reference view: x must lie in \[") as error:
            place_query(pair, AttentionQuery(x, 1.0, 0, "reference"))
        assert f"[{low:g}, {high:g})" in str(error.value)


def run(capsys, *arguments) -> tuple[int, str, str]:
    code = cli(["attention", *map(str, arguments)])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_command_line(video, model_folder, result, tmp_path, capsys):
    out = tmp_path / "o"
    fresh = [video, "--camera", "pan_left", "--fit", "crop", "--model", model_folder, "--steps", 2, "--out", out]
    code, printed, _ = run(capsys, *fresh, "--query", "12,9.5,2", "--layer", 0, "--noise-level", 0.9)
    assert code == 0
    assert printed == f"{out / 'attention.png'}\n"
    picture = cv2.imread(str(out / "attention.png"))
    assert picture.shape[1] == 2 * 256 + 6
    assert picture.std() > 20
    record = json.loads((out / "attention.json").read_text())
    assert record["model"] == str(model_folder)
    assert (record["layer"], record["step"]) == (0, 0)
    assert record["token"] == {"view": 1, "latent_frame": 1, "row": 2, "column": 3}
    code, _, error = run(capsys, *fresh, "--query", "12,9.5,2")
    assert code == 2
    assert "exists already" in error
    assert run(capsys, result, "--query", "80,40,1", "--view", "reference", "--out", out, "--overwrite")[0] == 0
    assert json.loads((out / "attention.json").read_text())["attention_of"] == "a generated video, noised"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["o"]


def test_any_programs_video_can_be_looked_into(video, model_folder, result, tmp_path, capsys):
    options = [
        "--camera",
        "pan_left",
        "--fit",
        "crop",
        "--model",
        model_folder,
        "--query",
        "9,9,6",
        "--steps",
        3,
        "--seed",
        4,
    ]
    made = ["--generated", result / "video.mp4"]
    assert run(capsys, video, *options, *made, "--out", tmp_path / "a")[0] == 0
    assert run(capsys, result, "--query", "9,9,6", "--out", tmp_path / "b")[0] == 0
    one, two = (json.loads((tmp_path / name / "attention.json").read_text()) for name in "ab")
    assert one == two


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"--query": "32,3,0"},
            "the query (32, 3) lies outside the generated view: x must lie in [0, 32), y in [0, 24)",
        ),
        ({"--query": "-1,3,0"}, "the query (-1, 3) lies outside the generated view"),
        ({"--query": "3,3,7"}, "the query's frame 7 does not exist: it must lie in [0, 6]"),
        ({"--query": "3,3,-1"}, "the query's frame -1 does not exist"),
        ({"--query": "3,3"}, "--query must be x,y,t"),
        ({"--query": "3,nan,1"}, "--query must be x,y,t"),
        ({"--query": "3,3,1.5"}, "--query must be x,y,t"),
        ({"--query": "3,3,1,1"}, "--query must be x,y,t"),
        ({"--layer": 2}, "layer 2 does not exist: this model has layers 0 .. 1"),
        ({"--heads": "0,2"}, "heads (0, 2) do not exist: this model has heads 0 .. 1"),
        ({"--heads": "all"}, "--heads must be numbers such as 0,2, got 'all'"),
        ({"--step": 3}, "--step 3 does not exist: with 3 sampling steps it must lie in [0, 2]"),
        ({"--step": 0, "--noise-level": 0.5}, "give one of them"),
        ({"--noise-level": 0}, "--noise-level must lie in (0, 1], got 0"),
        ({"--camera": "arc_left"}, "leave out --camera"),
        ({"--fit": "pad"}, "leave out --fit"),
        ({"--generated": "x.mp4"}, "leave out --generated"),
        ({"--guidance": 3}, "is for sampling, a video that exists is only seen"),
        ({"--negative": "fog"}, "is for sampling, a video that exists is only seen"),
        ({"--caption": "fog"}, "this model takes no captions (dit.text_dim is 0)"),
        ({"--steps": 0}, "--steps must be at least 1, got 0"),
    ],
)
def test_bad_input_is_one_line_and_leaves_nothing(result, tmp_path, capsys, change, message):
    options = {"--query": "3,3,1", "--out": tmp_path / "o"} | change
    code, printed, error = run(capsys, result, *(f"{k}={v}" for k, v in options.items()))
    assert code == 2
    assert printed == ""
    assert message in error.splitlines()[-1]
    assert list(tmp_path.iterdir()) == []


def test_a_video_needs_a_path_and_a_fitting_partner(video, model_folder, tmp_path, capsys):
    ask = ["--query", "3,3,1", "--model", model_folder, "--out", tmp_path / "o"]
    assert "--camera is needed" in run(capsys, video, *ask)[2]
    short = tmp_path / "short.mp4"
    write_video(short, torch.zeros(5, 3, 24, 32), 12.0)
    error = run(capsys, video, *ask, "--camera", "pan_left", "--fit", "crop", "--generated", short)[2]
    assert "short.mp4 has 5 frames" in error
    write_video(short, torch.zeros(T, 3, 24, 64), 12.0)
    error = run(capsys, video, *ask, "--camera", "pan_left", "--fit", "crop", "--generated", short)[2]
    assert "short.mp4 is 64x24, the re-shot picture would be 32x24: the aspects differ" in error


def test_results_that_no_longer_fit_their_files(video, model_folder, tmp_path, capsys):
    moved = tmp_path / "moved.mp4"
    shutil.copy(video, moved)
    made = reshoot_file(moved, SHOT.path, model_folder, tmp_path / "r", replace(SHOT, sample=SamplerOptions(1))).folder
    ask = [made, "--query", "3,3,1", "--out", tmp_path / "o"]
    record = json.loads((made / "run.json").read_text())
    (made / "run.json").write_text(json.dumps(record | {"model": {"source": "given", "sha256": None}}))
    assert "was made by the model given, which is not there: pass --model" in run(capsys, *ask)[2]
    other = record | {"model": {"source": str(model_folder), "sha256": "0"}}
    (made / "run.json").write_text(json.dumps(other))
    assert "has changed since" in run(capsys, *ask)[2]
    assert run(capsys, *ask, "--model", model_folder)[0] == 0
    moved.write_bytes(video.read_bytes() + b"\0")
    assert f"{moved} has changed since" in run(capsys, *ask)[2]
    moved.unlink()
    assert f"was made of {moved}, which is not there" in run(capsys, *ask)[2]
    (made / "run.json").write_text("{}")
    assert "is not a whole result" in run(capsys, *ask)[2]
    (made / "run.json").write_text("{")
    assert "run.json is damaged" in run(capsys, *ask)[2]
