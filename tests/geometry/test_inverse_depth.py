import math

import pytest
import torch

from mvtrack.geometry.camera import Camera, intrinsics_from_fov, pixel_grid, project, unproject
from mvtrack.geometry.inverse_depth import (
    correspondence,
    filled_from_behind,
    inside,
    median_of_neighbours,
    sample,
    splat_inverse_depth,
)

H, W = 11, 13


def camera(shift=(0.0, 0.0, 0.0), turn_deg=0.0, lens=1.0, size=(H, W)) -> Camera:
    angle = math.radians(turn_deg)
    c2w = torch.eye(4)
    c2w[:3, :3] = torch.tensor(
        [[math.cos(angle), 0, math.sin(angle)], [0, 1, 0], [-math.sin(angle), 0, math.cos(angle)]]
    )
    c2w[:3, 3] = torch.tensor(shift)
    K = intrinsics_from_fov(50.0, size)
    K[:2, :2] *= lens
    return Camera(c2w, K, size)


def test_correspondence_is_unproject_and_project():
    view, other = camera(), camera((0.3, -0.1, 0.2), 7.0, 1.2)
    depth = torch.rand(H, W, generator=torch.Generator().manual_seed(0)) * 3 + 1
    xy, inverse = correspondence((1 / depth)[None], view, other)
    points = unproject(pixel_grid((H, W)).flatten(0, 1), depth.flatten(), view)
    expected, z = project(points, other)
    torch.testing.assert_close(xy[0].flatten(0, 1), expected, atol=2e-4, rtol=1e-4)
    torch.testing.assert_close(inverse[0].flatten(), 1 / z, atol=1e-5, rtol=1e-4)


def test_correspondence_at_infinity_is_the_homography_and_behind_a_camera_is_outside():
    view, other = camera(), camera((0.3, 0.0, 2.0), 5.0)
    xy, inverse = correspondence(torch.zeros(1, 1, 1), view, other)
    turned, _ = correspondence(torch.ones(1, 1, 1), view, camera((0.0, 0.0, 0.0), 5.0))
    torch.testing.assert_close(xy, turned)
    assert (inverse == 0).all()
    behind, inverse = correspondence(torch.ones(1, 1, 1), view, other)  # at 1, the other camera stands at 2
    assert not inside(behind, (H, W)).any()
    assert (inverse == 0).all()


@pytest.mark.parametrize("factor", [0.01, 100.0])
def test_correspondence_knows_no_scale(factor):
    view, other = camera(), camera((0.3, -0.1, 0.2), 7.0)
    inverse = torch.full((1, H, W), 0.4)
    xy, _ = correspondence(inverse, view, other)
    scaled, _ = correspondence(inverse / factor, view.scaled(factor), other.scaled(factor))
    torch.testing.assert_close(scaled, xy, atol=1e-3, rtol=1e-4)


def test_sample_at_pixel_centres_returns_the_picture():
    picture = torch.rand(2, 3, H, W)
    xy = pixel_grid((H, W)).expand(2, -1, -1, -1)
    for mode in ("bilinear", "bicubic"):
        torch.testing.assert_close(sample(picture, xy, mode=mode), picture, atol=1e-5, rtol=0)


def test_splat_shows_the_nearer_surface():
    inverse = torch.full((H, W), 0.2)
    inverse[3:8, 2:5] = 1.0
    target = camera((-0.25, 0.0, 0.0))  # near things move right by 0.25 focal lengths
    surface, hit = splat_inverse_depth(inverse, camera(), target)
    shift = round(0.25 * float(target.K[0, 0]))
    assert (surface[4:7, 3 + shift] > 0.9).all()
    assert not hit[5].all()  # what the near thing hid, and the edge
    same, hit = splat_inverse_depth(inverse, camera(), camera())
    torch.testing.assert_close(same, inverse)
    assert hit.all()


def test_holes_take_what_lies_behind_and_cracks_close():
    inverse = torch.full((H, W), 1.0)
    inverse[:, 7:] = 0.1
    known = torch.ones(H, W, dtype=torch.bool)
    known[4:7, 5:9] = False
    filled = filled_from_behind(torch.where(known, inverse, 0.0), known)
    assert (filled[known] == inverse[known]).all()
    assert filled[5, 7] < 0.3
    assert (filled_from_behind(torch.zeros(H, W), torch.zeros(H, W, dtype=torch.bool)) == 0).all()
    cracked = torch.full((H, W), 1.0)
    cracked[:, 6] = 0.1
    assert (median_of_neighbours(cracked) == 1).all()
