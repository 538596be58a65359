import numpy as np
import pytest
import torch

from mvtrack.data.synthetic.pan_tilt_zoom import PanTiltZoom, cut, fits, pan_tilt_zoom_clip
from mvtrack.geometry.camera import project, unproject
from mvtrack.geometry.warp import covisible, depth_warp
from mvtrack.metrics.image import psnr

T, WIDE, SIZE, FOV = 3, (180, 320), (26, 34), 60.0


def wide_video() -> torch.Tensor:
    y, x = torch.meshgrid(torch.linspace(0, 1, WIDE[0]), torch.linspace(0, 1, WIDE[1]), indexing="ij")
    waves = [torch.sin(25 * x + 9 * y), torch.cos(17 * y - 6 * x), torch.sin(31 * x * y)]
    return torch.stack(waves).expand(T, -1, -1, -1) * torch.tensor([1.0, 0.9, 0.8])[:, None, None, None]


def test_identity_view_equals_wide_image():
    wide = wide_video()
    still = PanTiltZoom.ramp((0, 0, 1), (0, 0, 1), T)
    out = cut(wide, still, FOV, (90, 160))
    torch.testing.assert_close(out, torch.nn.functional.avg_pool2d(wide, 2), atol=0.02, rtol=0)


def test_pan_right_moves_picture_left():
    """Panning by the angle of n pixels at the centre shifts content by n pixels."""
    wide, zoom = wide_video(), 2.0
    still = PanTiltZoom.ramp((0, 0, zoom), (0, 0, zoom), T)
    focal = 0.5 * SIZE[1] / np.tan(np.radians(FOV / 2)) * zoom
    turned = PanTiltZoom.ramp((0, 0, zoom), (float(np.degrees(np.arctan(4 / focal))), 0, zoom), T)
    a, b = (cut(wide, path, FOV, SIZE)[-1] for path in (still, turned))
    centre = slice(SIZE[0] // 2 - 3, SIZE[0] // 2 + 3)
    shifted = (a[:, centre, 8:-4] - b[:, centre, 4:-8]).abs().mean()
    unshifted = (a[:, centre, 8:-4] - b[:, centre, 8:-4]).abs().mean()
    assert shifted < 0.1 * unshifted


def test_depth_warps_one_view_into_other():
    reference = PanTiltZoom.ramp((4, -2, 1.9), (4, -2, 1.9), T)
    target = PanTiltZoom.ramp((2, -1, 1.9), (-7, 3, 2.3), T)
    clip = pan_tilt_zoom_clip(wide_video(), reference, target, FOV, SIZE)
    seen = covisible(clip.depth[1], clip.depth[0], clip.camera[1], clip.camera[0])
    warped = depth_warp(clip.video[0], clip.depth[1], clip.depth[0], clip.camera[1], clip.camera[0])
    assert seen.float().mean() > 0.3
    assert psnr(warped, clip.video[1], seen) > 30
    assert psnr(clip.video[0], clip.video[1], seen) < 20
    assert clip.camera.c2w[..., :3, 3].abs().max() == 0


def test_depth_lies_on_sphere():
    path = PanTiltZoom.ramp((3, -2, 2.2), (6, 2, 2.5), T)
    clip = pan_tilt_zoom_clip(wide_video(), path, path, FOV, SIZE)
    xy = torch.tensor([[3.5, 5.5], [20.5, 11.5]]).expand(2, T, 2, 2)
    depth = clip.depth[..., [5, 11], [3, 20]]
    point = unproject(xy, depth, clip.camera)
    torch.testing.assert_close(point.norm(dim=-1), torch.ones(2, T, 2))
    torch.testing.assert_close(project(point, clip.camera)[0], xy, atol=1e-4, rtol=0)


def test_views_outside_the_image_raise():
    outside = PanTiltZoom.ramp((0, 0, 1.5), (25, 0, 1.5), T)
    with pytest.raises(ValueError, match="leaves the 180x320 image: turn less or zoom in more"):
        cut(wide_video(), outside, FOV, SIZE)
    assert not fits(outside, FOV, WIDE, SIZE)
    assert fits(PanTiltZoom.ramp((0, 0, 1.5), (9, -3, 2.2), T), FOV, WIDE, SIZE)
