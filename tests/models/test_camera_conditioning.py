import math

import pytest
import torch

from mvtrack.config.model import RayConfig
from mvtrack.geometry.camera import Camera, intrinsics_from_fov, plucker_rays
from mvtrack.geometry.trajectory import CameraPath
from mvtrack.models.conditioning import RayEncoder, model_cameras, ray_maps

V, T, H, W = 2, 9, 24, 32


def cameras() -> Camera:
    poses = torch.stack([CameraPath("zoom_in").poses(T), CameraPath("arc_left").poses(T)])
    return Camera(poses.float(), intrinsics_from_fov(60.0, (H, W)).expand(V, T, 3, 3), (H, W))


def test_ray_maps_pack_four_frames():
    """Channel c * 4 + k holds coordinate c of frame k of the group; the first group repeats frame 0."""
    config = RayConfig(token_px=8, stride=4)
    maps = ray_maps(cameras(), config)
    rays = plucker_rays(cameras(), 4)
    assert maps.shape == (V, 3, 24, H // 4, W // 4)
    for c in range(6):
        for k in range(4):
            torch.testing.assert_close(maps[:, 0, c * 4 + k], rays[:, 0, ..., c])
            torch.testing.assert_close(maps[:, 2, c * 4 + k], rays[:, 5 + k, ..., c])


def test_fourier_channels_follow_raw_channels():
    maps = ray_maps(cameras(), RayConfig(token_px=8, stride=8, fourier_bands=2))
    assert maps.shape[2] == 24 * 5
    torch.testing.assert_close(maps[:, :, 72:96], (maps[:, :, :24] * math.pi * 4).sin())


def test_golden_packing_equals_redirectors(golden_numbers):
    """Theirs has the moment first: the 24 channels agree after swapping the two halves."""
    golden = golden_numbers("cameras")
    row = torch.from_numpy(golden["plucker_12x20_traj"])[0]
    K = torch.zeros(9, 3, 3)
    K[:, 0, 0], K[:, 1, 1], K[:, 0, 2], K[:, 1, 2], K[:, 2, 2] = row[:, 1] * 20, row[:, 2] * 12, 10, 6, 1
    c2w = torch.eye(4).repeat(9, 1, 1)
    c2w[:, :3] = row[:, 7:].view(9, 3, 4)
    ours = ray_maps(Camera(c2w[None], K[None], (12, 20)), RayConfig(token_px=4, stride=1))[0]
    theirs = torch.from_numpy(golden["plucker_12x20_infer_packed"])[0].transpose(0, 1)
    torch.testing.assert_close(ours, torch.cat([theirs[:, 12:], theirs[:, :12]], 1), atol=1e-5, rtol=0)


@pytest.mark.parametrize("stride", [2, 4, 8])
def test_ray_encoder_gives_one_vector_per_token(stride):
    config = RayConfig(token_px=8, stride=stride, fourier_bands=1)
    tokens = RayEncoder(config, 13)(ray_maps(cameras(), config)[None])
    assert tokens.shape == (1, V * 3 * (H // 8) * (W // 8), 13)


def test_ray_tokens_keep_their_place():
    """With a 1x1 kernel, changing the rays of one cell changes exactly that cell's token."""
    config = RayConfig(token_px=8, stride=4, kernel_size=1)
    encoder, maps = RayEncoder(config, 5), ray_maps(cameras(), config)[None]
    changed = maps.clone()
    changed[0, 1, 2, :, 2:4, 6:8] += 1  # view 1, latent frame 2, token row 1, column 3
    moved = (encoder(changed) - encoder(maps)).abs().sum(-1)[0].nonzero()[:, 0].tolist()
    assert moved == [(1 * 3 + 2) * 12 + 1 * 4 + 3]


def test_model_cameras_are_invariant_to_world_and_scale():
    camera = cameras()
    scaled, unit = model_cameras(camera, RayConfig(), 2.0)
    assert unit.item() == 2
    torch.testing.assert_close(scaled.c2w[0, 0], torch.eye(4))
    rotation = CameraPath("pan_left").poses(3)[-1].float()
    rotation[:3, 3] = torch.tensor([3.0, 1.0, -2.0])
    moved = Camera(rotation @ camera.c2w, camera.K, camera.size).scaled(torch.tensor([5.0]))
    again, unit = model_cameras(moved, RayConfig(), 10.0)
    torch.testing.assert_close(again.c2w, scaled.c2w, atol=1e-5, rtol=0)
    assert unit.item() == 10


def test_scale_policies_divide_by_their_length():
    camera = cameras()
    _, unit = model_cameras(camera, RayConfig(scale="path_extent"))
    assert unit.item() == pytest.approx(max(2 * 160 / 161, 2.0577 * 160 / 161), rel=1e-2)
    assert model_cameras(camera, RayConfig(), scene_depth=3.0)[1].item() == 3
    assert model_cameras(camera, RayConfig(scale="none"))[1].item() == 1
    still = Camera(torch.eye(4).expand(V, T, 4, 4), camera.K, camera.size)
    assert model_cameras(still, RayConfig(scale="path_extent"))[1].item() == 1
    with pytest.raises(ValueError, match="needs scene_depth"):
        model_cameras(camera, RayConfig())


def test_invalid_ray_configs_raise():
    with pytest.raises(ValueError, match="must divide rays.token_px"):
        RayConfig(token_px=8, stride=3)
    with pytest.raises(ValueError, match="must be odd"):
        RayConfig(kernel_size=2)
