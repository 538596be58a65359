"""The page previews the very cameras that its command renders with."""

import pytest
import torch

from mvtrack.config.command_line import parse
from mvtrack.config.tree import from_tree
from mvtrack.geometry.camera import Camera, intrinsics_from_fov
from mvtrack.geometry.path_language import parse_path
from mvtrack.geometry.presets import SPEEDS
from mvtrack.inference.camera_estimation import source_cameras
from mvtrack.inference.camera_estimation.source_cameras import MeasuredSource
from mvtrack.inference.pipeline import shot_cameras
from mvtrack.inference.studio import shots
from mvtrack.inference.studio.shots import _WHEN, PathWish, ProbedVideo, RenderWish, Studio, error_span
from mvtrack.reshoot import ReshootCommand, shot_of
from mvtrack.video.reader import open_video


def keys() -> list[dict]:
    poses = parse_path("orbit_right 20 + pedestal_up 0.4").poses(4)
    return [{"c2w": pose.flatten().tolist(), "zoom": 1 + 0.1 * i} for i, pose in enumerate(poses)]


PATHS = {
    "words": {"text": " arc_left 12deg ease; dolly_in 0.3 "},
    "lens and distance": {"text": "orbit_up 9 + lens_in 1.3", "fov": 71.0, "distance": 2.5},
    "keyframes": {"keys": keys()},
    "keyframes eased": {"keys": keys(), "speed": "ease", "fov": 33.0, "distance": 6.0},
    "two keyframes eased in": {"keys": keys()[::3], "speed": "ease_in"},
}


@pytest.mark.parametrize("name", PATHS)
@pytest.mark.parametrize("resolution", ["source", "model", "72x128"])
def test_the_preview_shows_the_cameras_of_the_command(video, tmp_path, name, resolution):
    footage = open_video(video)
    probed = ProbedVideo.of(video, {"frames": len(footage), "fps": footage.fps, "size": list(footage.size)})
    studio, wish = Studio(), RenderWish(resolution=resolution)
    path = from_tree(PathWish, PATHS[name], "path")
    shown = studio.preview(probed, [0, 3, 6], path, wish)
    arguments = studio.arguments(probed, path, wish, tmp_path, tmp_path / "result")
    options = parse(ReshootCommand, arguments[1:], "test")
    shot = shot_of(options, options.video)
    fit, region = studio.region(footage, wish)
    cameras = region.camera(shot_cameras(shot, footage, fit).to(dtype=torch.float64))
    c2w = torch.tensor([one["c2w"] for one in shown["target"]], dtype=torch.float64).reshape(3, 4, 4)
    torch.testing.assert_close(c2w, cameras.c2w[1, [0, 3, 6]], atol=1e-6, rtol=0)
    K, (height, width) = cameras.K[1, [0, 3, 6]], cameras.size
    left = torch.tensor([one["edges"] for one in shown["target"]], dtype=torch.float64)
    expected = torch.stack([-K[:, 0, 2] / K[:, 0, 0], (width - K[:, 0, 2]) / K[:, 0, 0],
                            -K[:, 1, 2] / K[:, 1, 1], (height - K[:, 1, 2]) / K[:, 1, 1]], -1)  # fmt: skip
    torch.testing.assert_close(left, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", ["words", "keyframes eased"])
def test_a_source_that_moves_is_previewed_as_it_was_measured(video, tmp_path, monkeypatch, name):
    """Also where its first camera is not the world's origin: keyframes are dragged in the world."""
    footage = open_video(video)
    first, poses = parse_path("pan_left 30 + truck_left 2").poses(2)[1], parse_path("truck_right 0.5").poses(7)
    K = intrinsics_from_fov(61.0, footage.size).expand(7, 3, 3).double()
    found = MeasuredSource(Camera(first @ poses, K, footage.size), {}, ("measured",))
    for module in (shots, source_cameras):
        monkeypatch.setattr(module, "measure_source", lambda *arguments: found)
    shots._measured_source.cache_clear()
    probed = ProbedVideo.of(video, {"frames": 7, "fps": 12.0, "size": [90, 160]})
    wish = PATHS[name] | {"measured": True, "fov": None}
    if "keys" in wish:
        moved = [first @ torch.tensor(key["c2w"]).double().reshape(4, 4) for key in wish["keys"]]
        wish["keys"] = [{"c2w": pose.flatten().tolist(), "zoom": 1.1} for pose in moved]
    path = from_tree(PathWish, wish, "path")
    shown = Studio().preview(probed, [0, 5], path, RenderWish())
    arguments = Studio().arguments(probed, path, RenderWish(), tmp_path, tmp_path / "result")
    assert "--source-cameras auto" in " ".join(arguments)
    assert "--fov" not in arguments
    options = parse(ReshootCommand, arguments[1:], "test")
    shot = shot_of(options, options.video)
    fit, region = Studio().region(footage, RenderWish())
    cameras = region.camera(shot_cameras(shot, footage, fit).to(dtype=torch.float64))
    for view, source in enumerate(("source", "target")):
        c2w = torch.tensor([one["c2w"] for one in shown[source]], dtype=torch.float64).reshape(2, 4, 4)
        torch.testing.assert_close(c2w, cameras.c2w[view, [0, 5]], atol=1e-6, rtol=0)
    if "keys" in wish:
        begun = torch.tensor(shown["keys"][0]["c2w"], dtype=torch.float64)
        torch.testing.assert_close(begun, moved[0].flatten(), atol=1e-12, rtol=0)
    shots._measured_source.cache_clear()


def test_all_that_the_panel_offers_is_typed(tmp_path, video):
    probed = ProbedVideo.of(video, {"frames": 7, "fps": 12.0, "size": [90, 160]})
    wish = RenderWish(decoder="tiny", resolution="model", tracks=8, seed=3, steps=2, caption="-a 'man'")
    arguments = Studio().arguments(probed, PathWish("pan_left"), wish, tmp_path, tmp_path / "r")
    options = parse(ReshootCommand, arguments[1:], "test")
    assert (options.decoder.name, options.resolution, options.points.tracks) == ("tiny", "model", "grid:8")
    assert (options.sampling.seed, options.sampling.steps, options.sampling.caption) == (3, 2, "-a 'man'")


@pytest.mark.parametrize("name", SPEEDS)
def test_speeds_are_inverted(name):
    done = torch.linspace(0, 1, 11, dtype=torch.float64)
    torch.testing.assert_close(SPEEDS[name](_WHEN[name](done)), done, atol=1e-12, rtol=0)


def test_dragged_keyframes_come_back_as_they_were_unless_others_are_asked_for(video):
    probed = ProbedVideo.of(video, {"frames": 7, "fps": 12.0, "size": [90, 160]})
    path = from_tree(PathWish, PATHS["keyframes eased"], "path")
    assert Studio().preview(probed, [0], path, RenderWish())["keys"] == keys()
    assert len(Studio().preview(probed, [0], path, RenderWish(), 7)["keys"]) == 7


def test_renders_that_take_too_much_are_refused(video):
    probed = ProbedVideo.of(video, {"frames": 7, "fps": 12.0, "size": [90, 160]})
    assert Studio().expect(probed, RenderWish()).memory > 1e8
    with pytest.raises(ValueError, match="hours"):
        Studio().expect(probed, RenderWish(), max_hours=1e-9)
    with pytest.raises(ValueError, match="tiny takes no captions"):
        Studio().expect(probed, RenderWish(caption="a man"))
    with pytest.raises(ValueError, match="sides of 16 to 8192"):
        Studio().expect(probed, RenderWish(resolution="9000x9000"))


def test_errors_point_at_the_part_they_quote():
    assert error_span("unknown camera move 'b'; did you mean 'bb'?", "a 1; b 2") == (5, 6)
    assert error_span("the camera path is empty", "") is None
