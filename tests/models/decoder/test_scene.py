import re

import pytest
import torch

from mvtrack.geometry.camera import Camera, intrinsics_from_fov
from mvtrack.models.decoder.scene import REACH, DecoderScene

V, T, H, W = 3, 5, 22, 26
h, w = 11, 13  # cells of 2 x 2 pixels


def some_cameras(generator) -> Camera:
    turn = torch.randn(V, T, 3, 3, generator=generator) * 0.2
    c2w = torch.eye(4).repeat(V, T, 1, 1)
    c2w[..., :3, :3] = torch.linalg.matrix_exp(turn - turn.mT)
    c2w[..., :3, 3] = torch.randn(V, T, 3, generator=generator)
    K = intrinsics_from_fov(60.0, (H, W)).repeat(V, T, 1, 1)
    K[..., 0, 1] = 0.3
    return Camera(c2w, K, (H, W))


@pytest.fixture
def camera(generator):
    return some_cameras(generator)


@pytest.fixture
def depth(generator):
    return 2 + 3 * torch.rand(V, T, H, W, generator=generator)


@pytest.fixture
def video(generator):
    return torch.rand(T, 3, H, W, generator=generator) * 2 - 1


def test_radius_is_tenth_of_median_depth(camera):
    depth = torch.full((V, T, H, W), 7.0)
    depth[0, 0] = 1000.0  # would move a mean
    assert REACH == 0.1
    assert DecoderScene.of(camera, depth).radius == pytest.approx(0.7)


@pytest.mark.parametrize(
    ("bad", "count"), [((0.0,), 1), ((float("nan"),), 1), ((float("inf"), -1.0), 2), ((-0.5, 0.0, float("nan")), 3)]
)
def test_invalid_depth_raises_with_count(camera, depth, bad, count):
    depth.view(-1)[11 : 11 + count] = torch.tensor(bad)
    message = f"depth must be finite and positive everywhere; {count} of {V * T * H * W} values are not"
    with pytest.raises(ValueError, match=message):
        DecoderScene.of(camera, depth)


@pytest.mark.parametrize("shape", [(V, T, h, w), (V - 1, T, H, W), (V, T + 1, H, W), (V, T, W, H)])
def test_mismatched_depth_shape_raises(camera, shape):
    wanted = f"depth must be (V, T, H, W) = {(V, T, H, W)} as the cameras say, got {shape}"
    with pytest.raises(ValueError, match=re.escape(wanted)):
        DecoderScene.of(camera, torch.ones(shape))


def test_fourth_channel_marks_existing_pictures(camera, depth, video):
    pixels = DecoderScene.of(camera, depth, {1: video}).pixels
    assert pixels.shape == (V, T, 4, H, W)
    assert torch.equal(pixels[1, :, :3], video)
    assert pixels[1, :, 3].eq(1).all()
    assert pixels[[0, 2]].eq(0).all()
    assert DecoderScene.of(camera, depth).pixels.eq(0).all()


def test_resized_scene_averages_cells(camera, depth, video):
    frames = [4, 0, 3]
    scene = DecoderScene.of(camera, depth, {2: video}).at(frames, (h, w))
    assert scene.depth.shape == (V, 3, h, w)
    for m, frame in enumerate(frames):
        cell = depth[1, frame, 2 * 7 : 2 * 7 + 2, 2 * 5 : 2 * 5 + 2]
        assert scene.depth[1, m, 7, 5].item() == pytest.approx(cell.mean().item(), rel=1e-6)
        patch = video[frame, :, 2 * 7 : 2 * 7 + 2, 2 * 5 : 2 * 5 + 2]
        torch.testing.assert_close(scene.pixels[2, m, :3, 7, 5], patch.mean((-1, -2)))
    torch.testing.assert_close(scene.pixels[2, :, 3], torch.ones(3, h, w))
    assert scene.pixels[:2].eq(0).all()


def test_resized_scene_resizes_cameras_and_keeps_radius(camera, depth):
    whole = DecoderScene.of(camera, depth)
    scene = whole.at([4, 0, 3], (h, W))
    assert scene.camera.size == (h, W)
    assert torch.equal(scene.camera.c2w, camera.c2w[:, [4, 0, 3]])
    torch.testing.assert_close(scene.camera.K[..., 1, :], camera.K[:, [4, 0, 3], 1, :] / 2)
    torch.testing.assert_close(scene.camera.K[..., 0, :], camera.K[:, [4, 0, 3], 0, :])
    assert scene.radius == whole.radius


def test_moments_and_same_size_frames_are_slices(camera, depth, video):
    whole = DecoderScene.of(camera, depth, {0: video})
    for some in (whole.moments(slice(1, 4)), whole.at([1, 2, 3], (H, W))):
        assert torch.equal(some.depth, depth[:, 1:4])
        assert torch.equal(some.pixels, whole.pixels[:, 1:4])
        assert torch.equal(some.camera.c2w, camera.c2w[:, 1:4])
        assert torch.equal(some.camera.K, camera.K[:, 1:4])
        assert some.radius == whole.radius


def test_scene_seen_from_view_has_unit_median_depth(camera, depth):
    scene = DecoderScene.of(camera, depth)
    seen = scene.seen_from(1)
    torch.testing.assert_close(seen.c2w[1], torch.eye(4).expand(T, 4, 4), atol=1e-6, rtol=0)
    centre = camera.c2w[..., :3, 3]
    expected = (centre - centre[1]).norm(dim=-1) / depth.median()
    torch.testing.assert_close(seen.c2w[..., :3, 3].norm(dim=-1), expected, atol=1e-5, rtol=0)
    between = camera.c2w[1, :, :3, :3].mT @ camera.c2w[2, :, :3, :3]
    torch.testing.assert_close(seen.c2w[2, :, :3, :3], between, atol=1e-6, rtol=0)
