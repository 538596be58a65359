import pytest
import torch

from mvtrack.data.synthetic.test_scenes import CaseSpec, render_case
from mvtrack.geometry.camera import Camera, intrinsics_from_fov
from mvtrack.geometry.splat import splat
from mvtrack.geometry.trajectory import CameraPath
from mvtrack.geometry.warp import covisible, depth_warp
from mvtrack.metrics.image import psnr

H, W = 22, 26


def camera(pose: torch.Tensor | None = None) -> Camera:
    return Camera(torch.eye(4) if pose is None else pose.float(), intrinsics_from_fov(60.0, (H, W)), (H, W))


def test_splat_into_same_camera_is_identity(generator):
    image = torch.rand(5, H, W, generator=generator)
    warped, hit = splat(image, torch.rand(H, W, generator=generator) + 1, camera(), camera())
    assert hit.all()
    torch.testing.assert_close(warped, image, atol=1e-4, rtol=0)


def test_splat_shifts_wall_by_whole_pixels(generator):
    image, depth = torch.rand(3, H, W, generator=generator), torch.full((H, W), 2.0)
    pose = torch.eye(4)
    pose[0, 3] = 3 * 2.0 / camera().K[0, 0]
    warped, hit = splat(image, depth, camera(), camera(pose))
    torch.testing.assert_close(warped[..., :-3], image[..., 3:], atol=1e-3, rtol=0)
    assert hit[:, :-3].all()
    assert not hit[:, -2:].any()


def test_splat_keeps_nearest_surface(generator):
    """A near square moves further than the wall behind it and covers what it comes to lie on."""
    image, depth = torch.zeros(1, H, W), torch.full((H, W), 4.0)
    image[:, 8:14, 10:16], depth[8:14, 10:16] = 1.0, 2.0
    pose = torch.eye(4)
    pose[0, 3] = 2 * 4.0 / camera().K[0, 0]  # the wall moves by 2 pixels, the square by 4
    warped, hit = splat(image, depth, camera(), camera(pose))
    assert (warped[0, 9:13, 7:11] > 0.99).all()
    assert not hit[9:13, 12:13].any()  # what it uncovered is unknown


def test_splat_skips_invalid_depth(generator):
    image, depth = torch.rand(2, H, W, generator=generator), torch.ones(H, W)
    depth[3, 4], depth[5, 6], depth[7, 8] = torch.nan, -1.0, torch.inf
    warped, hit = splat(image, depth, camera(), camera())
    assert hit.sum() == H * W - 3
    assert warped.isfinite().all()


@pytest.mark.parametrize("preset", ["arc_left", "zoom_in", "translate_up"])
def test_splat_agrees_with_backward_warp(preset):
    clip = render_case(CaseSpec(3, preset, 12.0, 1.0, (44, 52), 2)).clip
    forward, hit = splat(clip.video[0, 1], clip.depth[0, 1], clip.camera[0, 1], clip.camera[1, 1])
    backward = depth_warp(clip.video[0], clip.depth[1], clip.depth[0], clip.camera[1], clip.camera[0])[1]
    seen = covisible(clip.depth[1], clip.depth[0], clip.camera[1], clip.camera[0])[1] & hit
    assert seen.float().mean() > 0.5
    assert psnr(forward, backward, seen) > 24
    assert psnr(forward, clip.video[1, 1], seen) > psnr(clip.video[0, 1], clip.video[1, 1], seen) + 4


def test_splat_is_invariant_to_world_and_scale(generator):
    image, depth = torch.rand(3, H, W, generator=generator), torch.rand(H, W, generator=generator) + 1.5
    pose = CameraPath("arc_left", amount=8.0, pivot_m=2.0).poses(2)[-1]
    plain, _ = splat(image, depth, camera(), camera(pose))
    world = CameraPath("pan_right", amount=40.0).poses(2)[-1]
    scaled = pose.clone()
    scaled[:3, 3] *= 5
    moved, _ = splat(image, 5 * depth, camera(world), camera(world @ scaled))
    assert (plain - moved).abs().mean() < 2e-3
