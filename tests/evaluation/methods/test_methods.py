import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from mvtrack.config.placement import Placement
from mvtrack.evaluation.interface import Skipped
from mvtrack.evaluation.methods.baselines import BASELINES, Baseline, warp_and_fill
from mvtrack.evaluation.methods.existing_rows import ExternalVideos, existing_rows
from mvtrack.evaluation.methods.model import ModelMethod
from mvtrack.evaluation.runner.plan import Plan
from mvtrack.evaluation.runner.stages import run_stages
from mvtrack.geometry.camera import Camera, intrinsics_from_fov
from mvtrack.inference.sampler import SamplerOptions
from mvtrack.metrics.image import psnr
from mvtrack.models.decoder.files import save_aligner
from mvtrack.models.decoder.small import SmallAligner
from mvtrack.models.reshoot_model import save_model
from mvtrack.video.writer import write_video


def test_baselines_are_ordered_as_they_must_be(davis):
    inputs = davis.load(davis.case_keys()[0])
    score = {}
    for kind in BASELINES:
        estimates = {"reference.depth": {"depth": inputs.depth.numpy()}}
        made = Baseline(kind).generate(inputs, estimates)
        assert made.shape == inputs.reference.shape
        score[kind] = psnr(made[1:], inputs.target[1:])
    assert score["ground_truth"] == math.inf
    assert score["copy"] < score["blur"] < score["depth_warp"]
    assert score["depth_warp_estimated"] == score["depth_warp"]  # the estimate was the truth


def test_the_truth_repeats_where_it_is_not_known(iphone):
    inputs = iphone.load(iphone.case_keys()[0])  # the truth of time 6 is missing
    made = Baseline("ground_truth").generate(inputs, {})
    torch.testing.assert_close(made[list(inputs.target_frames)], inputs.target)
    torch.testing.assert_close(made[6], inputs.target[5])


def test_holes_are_painted_from_their_edges(generator):
    video = torch.rand(1, 3, 11, 13, generator=generator)
    camera = Camera(
        torch.eye(4).expand(2, 1, 4, 4).clone(), intrinsics_from_fov(50, (11, 13)).expand(2, 1, 3, 3), (11, 13)
    )
    depth = torch.full((1, 11, 13), 2.0)
    torch.testing.assert_close(warp_and_fill(video, depth, camera), video)
    video[:] = torch.tensor([0.5, -0.5, 0.1])[:, None, None]
    depth[0, 3:7, 4:9] = torch.nan
    assert (warp_and_fill(video, depth, camera) - video).abs().max() < 0.02
    assert (warp_and_fill(video, torch.zeros_like(depth), camera) == 0).all()


def test_a_model_makes_the_same_video_whatever_else_is_made(davis, small_model, tmp_path):
    folder = save_model(small_model, tmp_path / "m").parent
    method = ModelMethod("m", "M", folder, SamplerOptions(2))
    first, second = (davis.load(key) for key in davis.case_keys())
    alone = method.generate(second, {})
    method.generate(first, {})
    torch.testing.assert_close(method.generate(second, {}), alone, atol=0, rtol=0)
    assert method.settings == ModelMethod("n", "N", folder, SamplerOptions(2)).settings
    assert method.settings != ModelMethod("m", "M", folder, SamplerOptions(3)).settings


@pytest.mark.gpu
def test_a_model_makes_the_same_video_on_a_gpu(davis, small_model, tmp_path):
    folder, inputs = save_model(small_model, tmp_path / "m").parent, davis.load(davis.case_keys()[0])
    near, far = (ModelMethod("m", "M", folder, SamplerOptions(2), Placement(device)) for device in ("cpu", "cuda"))
    expected = near.generate(inputs, {})
    made = far.generate(inputs, {})
    assert far.placed().device.type == "cuda"
    assert made.device.type == "cpu"
    torch.testing.assert_close(made, expected, atol=0.1, rtol=0)


def test_a_model_of_another_size_says_so(iphone, small_model, tmp_path):
    folder = save_model(small_model, tmp_path / "m").parent
    with pytest.raises(ValueError, match="makes 24x32, the benchmark is 28x24: pass --size"):
        ModelMethod("m", "M", folder).generate(iphone.load(iphone.case_keys()[0]), {})
    willing = ModelMethod("m", "M", folder, SamplerOptions(1), other_size=True)
    assert willing.generate(iphone.load(iphone.case_keys()[0]), {}).shape == (8, 3, 28, 24)
    assert willing.footnotes == ("M: trained at 24x32, 1 sampling steps, guidance 1, weights as stored.",)


def test_videos_are_found_under_their_cases_name(tmp_path):
    given = ExternalVideos("peer", "Peer", tmp_path)
    missing = given.find("bear--arc_left")
    assert isinstance(missing, Skipped)
    assert missing.reason == f"no video of this case: {tmp_path}/bear--arc_left.mp4 does not exist"
    (tmp_path / "bear--arc_left").mkdir()
    assert given.find("bear--arc_left") == tmp_path / "bear--arc_left"
    inner = write_video(tmp_path / "bear--arc_left/video.mp4", torch.zeros(2, 3, 8, 8), 24.0)
    assert given.find("bear--arc_left") == inner
    (tmp_path / "bear--arc_left.mp4").write_bytes(b"")
    assert "both could be the video" in given.find("bear--arc_left").reason


CPU = Placement("cpu")


@pytest.fixture
def left(toy, small_model, tmp_path) -> tuple[dict, Path]:
    """One row of each kind, and the results folder that remembers them."""
    (tmp_path / "videos").mkdir()
    folder = save_model(small_model, tmp_path / "m").parent
    placement = Placement("cpu", precision="bfloat16")
    mine = ModelMethod("mine", "Mine", folder, SamplerOptions(2, seed=3), placement, other_size=True, backbone="blur")
    save_aligner(SmallAligner(8), small_model.config.codec, tmp_path / "d")
    mine = replace(mine, decoder=tmp_path / "d")
    peer = ExternalVideos("peer", "Peer", tmp_path / "videos", resize=True, group="Others")
    methods = (Baseline("blur", "peer"), mine, peer)
    run_stages(Plan(toy, methods, (), folder=tmp_path / "out"), [])
    return {m.name: m for m in methods}, tmp_path / "out"


def test_rows_come_back_as_they_were_made(left):
    methods, out = left
    found = existing_rows(out, CPU)
    assert found.others == {}
    assert found.notes == []
    assert {m.name: m for m in found.methods} == methods


def test_precision_is_the_rows_and_the_place_the_commands(left):
    _, out = left
    [mine] = [m for m in existing_rows(out, Placement("cpu", offload="model")).methods if m.name == "mine"]
    assert mine.placement == Placement("cpu", "bfloat16", "model")


def test_what_would_be_made_otherwise_is_left_as_it_is(left, tmp_path):
    """Another model at its place, videos that are gone, a record of another version."""
    _, out = left
    weights = tmp_path / "m/model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-4] + b"else")
    (tmp_path / "videos").rmdir()
    path = out / "methods/blur/method.json"
    path.write_text(json.dumps({k: v for k, v in json.loads(path.read_text()).items() if k != "origin"}))
    found = existing_rows(out, CPU)
    assert found.methods == ()
    assert set(found.others) == {"blur", "mine", "peer"}
    assert found.lost_models == ["mine"]
    assert f"mine: its model {tmp_path}/m is gone or has changed: its videos are scored as they are" in found.notes[1]
    weights.unlink()
    assert existing_rows(out, CPU).lost_models == ["mine"]


def test_an_empty_folder_has_no_rows(tmp_path):
    assert existing_rows(tmp_path / "nothing", CPU).methods == ()
