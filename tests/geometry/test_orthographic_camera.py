"""An orthographic camera beside the perspective one: projection, rays, warps, epipolar sampling."""

from dataclasses import replace

import pytest
import torch

from mvtrack.geometry.camera import Camera, pixel_grid, plucker_rays, project, unproject
from mvtrack.geometry.inverse_depth import correspondence
from mvtrack.geometry.path_language import parse_path
from mvtrack.geometry.warp import covisible, depth_warp
from mvtrack.models.decoder.epipolar_attention import look_up

SIZE, SCALE = (22, 34), 7.0  # pixels a unit


def ring(count: int = 3) -> Camera:
    """Cameras around a point in front of the first."""
    poses = parse_path("arc_left 40deg").poses(5)[::2][:count].float()
    K = torch.tensor([[SCALE, 0, SIZE[1] / 2], [0, SCALE, SIZE[0] / 2], [0, 0, 1]])
    return Camera(poses, K.expand(count, 3, 3), SIZE, projection="orthographic")


def test_projection_is_that_of_the_closed_form_and_back(generator):
    camera, points = ring(), torch.randn(11, 3, generator=generator) + torch.tensor([0.0, 0, 4])
    xy, z = project(points, camera)
    for v in range(3):
        local = torch.linalg.inv(camera.c2w[v].double()) @ torch.cat([points, torch.ones(11, 1)], 1).double().T
        expected = torch.stack([SCALE * local[0] + SIZE[1] / 2, SCALE * local[1] + SIZE[0] / 2], -1)
        torch.testing.assert_close(xy[v].double(), expected, atol=1e-4, rtol=0)
        torch.testing.assert_close(z[v].double(), local[2], atol=1e-5, rtol=0)
    torch.testing.assert_close(unproject(xy, z, camera), points.expand(3, -1, -1), atol=1e-5, rtol=0)


def test_rays_are_parallel_and_pass_through_what_their_pixel_shows():
    camera = ring()
    rays = plucker_rays(camera)
    direction, moment = rays[..., :3], rays[..., 3:]
    assert torch.equal(direction, camera.c2w[:, None, None, :3, 2].expand_as(direction))
    grid = pixel_grid(SIZE).flatten(0, 1)
    for z in (0.5, 9.0):
        points = unproject(grid, torch.full((3, len(grid)), z), camera).unflatten(1, SIZE)
        torch.testing.assert_close(torch.linalg.cross(points, direction), moment, atol=1e-5, rtol=0)


def test_scaling_cropping_and_resizing_follow_the_picture(generator):
    camera, points = ring(), torch.randn(5, 3, generator=generator)
    xy, z = project(points, camera)
    larger_xy, larger_z = project(3 * points, camera.scaled(3.0))
    torch.testing.assert_close(larger_xy, xy, atol=1e-4, rtol=0)
    torch.testing.assert_close(larger_z, 3 * z, atol=1e-4, rtol=0)
    moved, _ = project(points, camera.resized((11, 68)).cropped(2, 3, (5, 7)))
    torch.testing.assert_close(moved, xy * torch.tensor([2, 0.5]) - torch.tensor([2, 3]), atol=1e-4, rtol=0)


def test_far_pinholes_come_to_the_same(generator):
    """A pinhole at distance D with focal length D * SCALE shows a point at depth z off by z / D of its offset."""
    camera, points, far = ring(1), torch.rand(7, 3, generator=generator).double() - 0.5, 1e5
    camera = camera.to(dtype=torch.float64)
    c2w, K = camera.c2w.clone(), camera.K.clone()
    c2w[:, :3, 3] -= far * c2w[:, :3, 2]
    K[:, [0, 1], [0, 1]] = SCALE * far
    pinhole = Camera(c2w, K, SIZE)
    assert (project(points, pinhole)[0] - project(points, camera)[0]).abs().max() < 10 * SCALE / far


def test_a_plane_is_carried_to_another_view_exactly():
    camera = ring(2)
    # a plane through (0, 0, 4) that faces the first camera: its depth in the second is where their rays meet it
    texture = lambda xy: torch.stack([xy[..., 0], xy[..., 1], xy.sum(-1)], -3)  # noqa: E731
    grid = pixel_grid(SIZE)
    first = torch.full((1, *SIZE), 4.0)
    origin = unproject(grid.flatten(0, 1), torch.zeros(grid.flatten(0, 1).shape[:1]), camera[1])
    second = ((4 - origin[:, 2]) / camera[1].c2w[2, 2]).view(1, *SIZE)
    video = texture(grid)[None]
    warped = depth_warp(video, second, first, camera[1:], camera[:1])
    points = unproject(grid.flatten(0, 1), second.flatten(), camera[1])
    xy = project(points, camera[0])[0].view(*SIZE, 2)
    seen = covisible(second, first, camera[1:], camera[:1])[0]
    assert seen.float().mean() > 0.5
    inner = seen & (xy > 0.5).all(-1) & (xy < torch.tensor([SIZE[1] - 0.5, SIZE[0] - 0.5])).all(-1)
    torch.testing.assert_close(warped[0][:, inner], texture(xy)[:, inner], atol=1e-3, rtol=0)  # bilinear is exact here
    tokens, told = look_up(video, points[None], camera[:1])
    assert torch.equal(told[0].view(SIZE)[inner], torch.ones_like(inner[inner]))
    torch.testing.assert_close(tokens[0].mT.unflatten(-1, SIZE)[:, inner], texture(xy)[:, inner], atol=1e-3, rtol=0)


def test_what_needs_a_centre_refuses():
    camera = ring(2)
    with pytest.raises(ValueError, match="a homography of planes needs perspective cameras"):
        correspondence(torch.ones(1, 1, 1), camera[0], camera[1])
    with pytest.raises(ValueError, match="cannot be stacked"):
        Camera.stack([camera, replace(camera, projection="perspective")])


def test_an_unknown_projection_is_refused(unchecked):
    with pytest.raises(ValueError, match="projection must be perspective or orthographic, got 'fisheye'"):
        Camera(torch.eye(4), torch.eye(3), SIZE, projection="fisheye")
