"""`mvtrack track` and `mvtrack reshoot --tracks` as users type them. The head is untrained: only the way is tested."""

import csv
import json

import numpy as np
import pytest
import torch

from mvtrack import track_files
from mvtrack.cli.main import main as cli
from mvtrack.inference.memory import check_memory as refuse
from mvtrack.inference.pipeline import shipped_model
from mvtrack.inference.tracking import track_files as track_job
from mvtrack.inference.tracking.track_files import TrackOptions
from mvtrack.models.reshoot_model import read_config, save_model
from mvtrack.video.reader import open_video
from mvtrack.video.writer import write_video

T = 7
KEYS = {
    "xy", "visible", "score", "followed", "found", "start", "query", "shift", "kept", "id", "view", "size", "fps",
}  # fmt: skip


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory, tracking_model):
    return save_model(tracking_model, tmp_path_factory.mktemp("model")).parent


@pytest.fixture(scope="module")
def other_view(tmp_path_factory):
    """A second view of 7 frames at another size."""
    frames = torch.rand(T, 3, 48, 80, generator=torch.Generator().manual_seed(1)) * 2 - 1
    return write_video(tmp_path_factory.mktemp("other") / "second.mp4", frames, fps=12.0)


def run(capsys, *arguments) -> tuple[int, str, str]:
    code = cli([*map(str, arguments)])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_one_video_by_its_file(video, model_folder, tmp_path, capsys):
    points = tmp_path / "p.csv"
    points.write_text("id,frame,x,y\nleft,1,30,40\nright,6,120.5,60\n")
    out = tmp_path / "o"
    code, printed, error = run(capsys, "track", video, "--tracks", points, "--model", model_folder, "--out", out)
    assert code == 0, error
    assert printed.split("\n")[:-1] == [str(out / name) for name in ("tracks.npz", "tracks.csv", "tracks_in put.mp4")]
    assert "1 of 2 points were moved to the nearest latent frame, by up to 1 frames" in error
    with np.load(out / "tracks.npz") as arrays:
        assert set(arrays) == KEYS
        assert arrays["xy"].shape == (1, T, 2, 2)
        assert arrays["id"].tolist() == ["left", "right"]
        assert arrays["shift"].tolist() == [-1, 0]
        np.testing.assert_allclose(arrays["query"], [[1, 30, 40], [6, 120.5, 60]])
        np.testing.assert_allclose(arrays["start"][0, 1], [6, 120.5, 60], rtol=1e-5)
        assert arrays["start"][0, 0, 0] == 0
        assert arrays["followed"][0, :3, 0].all()  # around their starts, whatever the head says
        assert arrays["followed"][0, 4:, 1].all()
        assert arrays["size"].tolist() == [[90, 160]]
        xy = arrays["xy"]
    rows = list(csv.DictReader((out / "tracks.csv").read_text().splitlines()))
    assert len(rows) == 2 * T
    assert rows[T]["id"] == "right"
    assert rows[T]["view"] == "in put"
    assert float(rows[T + 3]["x"]) == pytest.approx(xy[0, 3, 1, 0], abs=0.01)
    drawn = open_video(out / "tracks_in put.mp4")
    assert (len(drawn), drawn.size) == (T, (360, 640))
    record = json.loads((out / "run.json").read_text())
    assert record["tracks"] == {"points": str(points), "depth": None, "count": 2}
    assert (record["placement"]["device"], record["placement"]["attention"]) == ("cpu", "auto")
    assert set(record["attention"].values()) == {"cpu"}
    assert run(capsys, "track", video, "--tracks", points, "--model", model_folder, "--out", out)[0] == 2


def test_too_little_memory_is_refused_before_the_model_is_loaded(video, model_folder, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(refuse, "free_gib", lambda _: 1e-6)
    monkeypatch.setattr(track_job, "load_model", lambda _: pytest.fail("the model was loaded"))
    arguments = ["track", video, "--tracks", "grid:2", "--model", model_folder, "--out", tmp_path / "o"]
    assert cli([str(argument) for argument in arguments]) == 2
    error = capsys.readouterr().err
    assert "pictures, 5 frames at a time, takes about" in error
    assert "decoding" not in error  # tracking makes no pictures


def test_two_views_side_by_side(video, other_view, tracking_model, tmp_path):
    done = track_files([video, other_view], "grid:3", tracking_model, tmp_path / "o", TrackOptions(fit="stretch"))
    assert [path.name for path in done.files] == [
        "tracks.npz", "tracks.csv", "tracks_in put.mp4", "tracks_second.mp4", "tracks_side_by_side.mp4",
    ]  # fmt: skip
    assert any("no cameras were given" in note for note in done.notes)
    with np.load(done.folder / "tracks.npz") as arrays:
        assert arrays["xy"].shape == (2, T, 9, 2)
        assert arrays["size"].tolist() == [[90, 160], [48, 80]]
        assert arrays["found"][0].all()
        missing = int((~arrays["found"][1]).sum())
    assert missing == 0 or f"{missing} of 9 points were not found in view 1" in done.notes


def test_a_reshot_video_comes_with_tracks(video, model_folder, tmp_path, capsys):
    out = tmp_path / "o"
    arguments = [video, "--camera", "pan_right 4", "--model", model_folder, "--out", out, "--steps", 1]
    code, printed, error = run(capsys, "reshoot", *arguments, "--tracks", "grid:4@5")
    assert code == 0, error
    names = ["tracks.npz", "tracks.csv", "tracks_reference.mp4", "tracks_reshot.mp4", "tracks_side_by_side.mp4"]
    assert printed.splitlines() == [str(out / name) for name in ["side_by_side.mp4", "video.mp4", *names]]
    with np.load(out / "tracks.npz") as arrays:
        assert arrays["xy"].shape == (2, T, 16, 2)
        assert arrays["view"].tolist() == ["reference", "reshot"]
        assert arrays["size"].tolist() == [[90, 160], [90, 160]]
        assert set(arrays["query"][:, 0]) == {5.0}
    record = json.loads((out / "run.json").read_text())
    assert record["shot"]["tracks"] == {"points": "grid:4@5", "depth": None}
    assert any("were moved to the nearest latent frame" in note for note in record["input"]["notes"])
    assert open_video(out / "tracks_reshot.mp4").size == (360, 640)


def test_depth_takes_points_into_the_new_view(video, model_folder, tmp_path, capsys):
    """A pan by a few degrees over a flat scene: every point's start is where the plane's depth says."""
    np.save(tmp_path / "depth.npy", np.full((90, 160), 4.0, np.float32))
    arguments = [video, "--camera", "pan_right 4", "--model", model_folder, "--steps", 1, "--tracks", "grid:4@4"]
    arguments += ["--resolution", "model"]
    code, _, error = run(capsys, "reshoot", *arguments, "--depth", tmp_path / "depth.npy", "--out", tmp_path / "o")
    assert code == 0, error
    with np.load(tmp_path / "o/tracks.npz") as arrays:
        found, start = arrays["found"][1], arrays["start"][1]
        assert found.sum() >= 8
        assert (start[found][:, 0] == 4).all()
        assert (start[~found][:, 0] == -1).all()
        shift = start[found][:, 1] - (arrays["query"][found][:, 1] - 80) * 24 / 90 - 16
        assert -6 < shift.mean() < -0.5  # what was ahead lies further left after a turn to the right


def test_a_caption_changes_what_the_model_sees(video, told_model, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(track_job, "refined_tracks", lambda tracks, footage: tracks)  # the head's own, before flow
    folder = save_model(told_model, tmp_path / "m").parent
    found = {}
    for caption in (None, "", "a red ball"):
        out, words = tmp_path / f"o{caption}", [] if caption is None else ["--caption", caption]
        code, _, error = run(capsys, "track", video, "--tracks", "grid:3", "--model", folder, "--out", out, *words)
        assert code == 0, error
        assert json.loads((out / "run.json").read_text()).get("caption") == caption
        with np.load(out / "tracks.npz") as arrays:
            found[caption] = arrays["xy"]
    np.testing.assert_array_equal(found[None], found[""])
    assert np.abs(found["a red ball"] - found[""]).max() > 1e-3


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"--tracks": "grid:0"}, "a grid of points must look like grid:20"),
        ({"--tracks": "nowhere.csv"}, "cannot read nowhere.csv"),
        ({"--cameras": "a.json b.json"}, "--cameras names 2 files for 1 videos: give one of each"),
        ({"--depth": "d.npy"}, "--depth finds points in other views: give more than one video"),
        ({"--depth": "auto"}, "--depth auto is no .npy or .npz, and --tracks and --decoder read nothing else"),
        ({"--fov": 70, "--cameras": "a.json"}, "--fov has no effect, the file given as --cameras says it"),
        ({"--pose-convention": "opengl"}, "--pose-convention has no effect, it is for pose files: give --cameras"),
        ({"--fov": 200}, "--fov must lie in"),
        ({"--cache": 0.1}, "unknown option --cache"),
        ({"--size": "9"}, "--size must look like"),
        ({"--caption": "fog"}, "this model takes no captions (dit.text_dim is 0)"),
    ],
)
def test_bad_input_is_one_line_and_leaves_nothing(video, model_folder, tmp_path, capsys, change, message):
    options = {"--tracks": "grid:2", "--model": model_folder, "--out": tmp_path / "o"} | change
    pairs = [x for name, value in options.items() for x in (name, *str(value).split(" "))]
    code, printed, error = run(capsys, "track", video, *pairs)
    assert code == 2
    assert printed == ""
    assert message in error.splitlines()[-1]
    assert "Traceback" not in error
    assert list(tmp_path.iterdir()) == []


def test_a_model_without_a_head_is_refused_before_anything(video, small_model, tmp_path, capsys):
    folder = save_model(small_model, tmp_path / "m").parent
    for command in (["track"], ["reshoot", "--camera", "pan_left"]):
        code, _, error = run(
            capsys, command[0], video, *command[1:], "--tracks", "grid:2", "--model", folder, "--out", tmp_path / "o"
        )
        assert code == 2
        assert "this model has no tracking head: train one" in error
    assert not (tmp_path / "o").exists()


def test_views_must_show_the_same_moments(video, tracking_model, tmp_path):
    shorter = write_video(tmp_path / "short.mp4", torch.zeros(5, 3, 48, 80), fps=12.0)
    with pytest.raises(ValueError, match=r"short.mp4 has 5 frames, .*in put.mp4 has 7: videos of one scene must show"):
        track_files([video, shorter], "grid:2", tracking_model, tmp_path / "o")


def test_another_shipped_model_is_not_taken_in_silence(model_folder, tmp_path, capsys):
    arguments = ["reshoot", tmp_path / "missing.mp4", "--camera", "pan_left"]
    said = "--tracks takes the shipped model with a tracking head"
    assert said in run(capsys, *arguments, "--tracks", "grid:2")[2]
    assert said not in run(capsys, *arguments, "--tracks", "grid:2", "--model", model_folder)[2]
    assert said not in run(capsys, *arguments)[2]


def test_the_model_that_ships_for_tracks_has_a_head():
    assert read_config(shipped_model(tracking=True)).tracking is not None
    assert read_config(shipped_model()).tracking is None
