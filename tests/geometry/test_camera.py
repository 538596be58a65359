import pytest
import torch

from mvtrack.geometry.camera import (
    Camera,
    camera_rays,
    intrinsics_from_fov,
    invert_pose,
    path_extent,
    pixel_grid,
    plucker_rays,
    project,
    relative_pose,
    unproject,
)
from mvtrack.geometry.trajectory import CameraPath

V, T, N, H, W = 2, 5, 7, 22, 26


def random_cameras(seed: int = 0) -> Camera:
    g = torch.Generator().manual_seed(seed)
    rotation, _ = torch.linalg.qr(torch.randn(V, T, 3, 3, generator=g, dtype=torch.float64))
    rotation = rotation * torch.linalg.det(rotation).sign()[..., None, None]
    c2w = torch.eye(4, dtype=torch.float64).repeat(V, T, 1, 1)
    c2w[..., :3, :3] = rotation
    c2w[..., :3, 3] = torch.randn(V, T, 3, generator=g, dtype=torch.float64)
    K = torch.tensor([[31.0, 0.4, 12.0], [0, 29.0, 9.0], [0, 0, 1]], dtype=torch.float64).repeat(V, T, 1, 1)
    return Camera(c2w, K, (H, W))


def test_project_inverts_unproject(generator):
    camera = random_cameras()
    xy = torch.rand(V, T, N, 2, generator=generator).double() * torch.tensor([W, H])
    depth = 1 + torch.rand(V, T, N, generator=generator).double() * 5
    back, z = project(unproject(xy, depth, camera), camera)
    torch.testing.assert_close(back, xy, atol=1e-9, rtol=0)
    torch.testing.assert_close(z, depth, atol=1e-9, rtol=0)


def test_points_behind_camera_have_negative_depth():
    camera = Camera(torch.eye(4), intrinsics_from_fov(60.0, (H, W)), (H, W))
    _, z = project(torch.tensor([[0.3, 0.2, -2.0]]), camera)
    assert z.item() == -2


def test_resize_and_crop_move_projections_with_pixels(generator):
    camera = random_cameras()
    point = unproject(torch.full((V, T, 1, 2), 8.0).double(), torch.full((V, T, 1), 3.0).double(), camera)
    doubled, _ = project(point, camera.resized((2 * H, 3 * W)))
    torch.testing.assert_close(doubled, torch.tensor([24.0, 16.0]).double().expand_as(doubled))
    cropped, _ = project(point, camera.cropped(3, 2, (11, 13)))
    torch.testing.assert_close(cropped, torch.tensor([5.0, 6.0]).double().expand_as(cropped))


def test_pixel_grid_has_raster_centres():
    grid = pixel_grid((6, 9), 3)
    assert grid.shape == (2, 3, 2)
    assert grid[0, 0].tolist() == [1.5, 1.5]
    assert grid[1, 2].tolist() == [7.5, 4.5]
    assert pixel_grid((2, 3))[1, 2].tolist() == [2.5, 1.5]
    with pytest.raises(ValueError, match="7x9 is not divisible by the cell size 3"):
        pixel_grid((7, 9), 3)


def test_plucker_rays_are_lines():
    """m is orthogonal to d, |d| = 1, and every point of the pixel's ray satisfies p x d = m."""
    camera = random_cameras()
    rays = plucker_rays(camera)
    direction, moment = rays[..., :3], rays[..., 3:]
    torch.testing.assert_close(direction.norm(dim=-1), torch.ones(V, T, H, W).double())
    torch.testing.assert_close((direction * moment).sum(-1), torch.zeros(V, T, H, W).double(), atol=1e-9, rtol=0)
    xy = torch.tensor([4.5, 7.5]).double().expand(V, T, 1, 2)
    point = unproject(xy, torch.full((V, T, 1), 2.3).double(), camera)[..., 0, :]
    torch.testing.assert_close(torch.linalg.cross(point, direction[..., 7, 4, :]), moment[..., 7, 4, :])


def test_golden_plucker_maps(golden_numbers):
    """ReDirector's maps; its channel order is [m, d], its intrinsics are normalised by the image size."""
    golden = golden_numbers("cameras")
    for name, size in (("plucker_12x20", (12, 20)), ("plucker_20x12", (20, 12))):
        row = torch.from_numpy(golden[f"{name}_traj"])[0]
        height, width = size
        K = torch.zeros(len(row), 3, 3)
        K[:, 0, 0], K[:, 1, 1] = row[:, 1] * width, row[:, 2] * height
        K[:, 0, 2], K[:, 1, 2], K[:, 2, 2] = row[:, 3] * width, row[:, 4] * height, 1
        c2w = torch.eye(4).repeat(len(row), 1, 1)
        c2w[:, :3] = row[:, 7:].view(-1, 3, 4)
        ours = plucker_rays(Camera(c2w, K, size))
        theirs = torch.from_numpy(golden[f"{name}_infer"])[0]
        torch.testing.assert_close(ours, theirs[..., [3, 4, 5, 0, 1, 2]], atol=1e-5, rtol=0)


def test_relative_pose_starts_at_identity_and_ignores_world():
    camera = random_cameras()
    relative = camera.relative_to(camera.c2w[:1, :1])
    torch.testing.assert_close(relative.c2w[0, 0], torch.eye(4).double(), atol=1e-12, rtol=0)
    moved = random_cameras(3).c2w[0, 0] @ camera.c2w
    torch.testing.assert_close(relative_pose(moved[:1, :1], moved), relative.c2w)
    torch.testing.assert_close(invert_pose(camera.c2w) @ camera.c2w, torch.eye(4).double().expand(V, T, 4, 4))


def test_path_extent_scales_with_world():
    pose = CameraPath("zoom_in", amount=3.0).poses(T)
    assert path_extent(pose).item() == pytest.approx(3.0)
    camera = Camera(pose, torch.eye(3).double().expand(T, 3, 3), (H, W)).scaled(torch.tensor([0.5]))
    assert path_extent(camera.c2w).item() == pytest.approx(1.5)


def test_intrinsics_from_fov_by_hand():
    K = intrinsics_from_fov(90.0, (H, W))
    edge = camera_rays(torch.tensor([float(W), H / 2]), K)
    torch.testing.assert_close(edge, torch.tensor([1.0, 0.0, 1.0]))
    with pytest.raises(ValueError, match="got 180"):
        intrinsics_from_fov(180, (H, W))


@pytest.mark.usefixtures("unchecked")
def test_wrong_shapes_raise():
    with pytest.raises(ValueError, match="same leading shape"):
        Camera(torch.eye(4).expand(2, 4, 4), torch.eye(3).expand(3, 3, 3), (H, W))
    one = Camera(torch.eye(4), torch.eye(3), (H, W))
    with pytest.raises(ValueError, match="different image sizes"):
        Camera.stack([one, one.resized((W, H))])
