import math

import pytest
import torch

from mvtrack.geometry.camera import Camera, intrinsics_from_fov
from mvtrack.geometry.trajectory import CameraPath
from mvtrack.geometry.warp import covisible, depth_warp, sample_bilinear, sample_nearest
from mvtrack.metrics.image import gaussian_blur, gradient_energy, masked_psnr, masked_ssim, psnr, ssim
from mvtrack.metrics.motion import measure_turn

T, H, W = 2, 44, 52


def picture(height: int = H, width: int = W) -> torch.Tensor:
    y, x = torch.meshgrid(torch.linspace(0, 1, height), torch.linspace(0, 1, width), indexing="ij")
    return torch.stack([torch.sin(13 * x + 5 * y), torch.cos(11 * y - 3 * x), torch.sin(17 * x * y + 2)])


def test_golden_psnr(image_pair):
    images = [torch.from_numpy(image_pair[f"img{i}_uint8"]).permute(2, 0, 1) / 127.5 - 1 for i in (0, 1)]
    assert psnr(*images) == pytest.approx(float(image_pair["psnr_skimage"]), abs=1e-3)


def test_psnr_by_hand():
    a = torch.zeros(T, 3, H, W)
    b = a + 0.2  # 0.1 of the full range
    assert psnr(a, b) == pytest.approx(20.0, abs=1e-4)
    assert psnr(a, a) == math.inf
    assert psnr(a + 5, a + 1) == math.inf  # clamped to the range
    mask = torch.zeros(T, H, W, dtype=torch.bool)
    mask[0, 3, 4] = True
    b[0, :, 3, 4] = 0.02
    assert psnr(a, b, mask) == pytest.approx(40.0, abs=1e-3)
    with pytest.raises(ValueError, match="selects no pixel"):
        psnr(a, b, torch.zeros_like(mask))


def test_golden_ssim_of_skimage(image_pair):
    a, b = (torch.from_numpy(image_pair[f"img{i}_uint8"]).permute(2, 0, 1).double() / 127.5 - 1 for i in (0, 1))
    assert ssim(a, b) == pytest.approx(float(image_pair["ssim_skimage_gaussian"]), rel=1e-6)


def test_ssim_is_a_mean_over_pictures_with_exact_extremes(generator, unchecked):
    x = 2 * torch.rand(2, 3, 17, 13, generator=generator) - 1
    assert ssim(x, x) == pytest.approx(1)
    y = torch.stack([x[0], -x[1]])
    assert ssim(x, y) == pytest.approx((1 + ssim(x[1], y[1])) / 2)
    assert ssim(x[1], y[1]) < 0
    with pytest.raises(ValueError, match=r"at least 11x11 pixels, got \(10, 13\)"):
        ssim(x[..., :10, :], x[..., :10, :])


@pytest.mark.parametrize("mask_name", ["ones", "random70", "half", "block", "tiny"])
def test_golden_masked_scores_of_dycheck(golden_numbers, mask_name):
    golden = golden_numbers("dycheck_image")
    cases = sorted({name.split(".")[0] for name in golden})
    assert len(cases) >= 2
    for case in cases:
        a, b = (torch.from_numpy(golden[f"{case}.img{i}"]).permute(2, 0, 1).double() * 2 - 1 for i in (0, 1))
        mask = torch.from_numpy(golden[f"{case}.{mask_name}.mask"])[..., 0] > 0
        for score, name, tolerance in ((masked_psnr, "psnr", 1e-3), (masked_ssim, "ssim", 2e-5)):
            double, single = (float(golden[f"{case}.{mask_name}.{name}.float{bits}"]) for bits in (64, 32))
            assert float(score(a, b, mask)) == pytest.approx(double, rel=1e-6)
            assert float(score(a.float(), b.float(), mask)) == pytest.approx(single, abs=tolerance)


@pytest.mark.parametrize("score", [masked_psnr, masked_ssim])
def test_masked_scores_ignore_what_lies_outside(generator, score, unchecked):
    a, b = torch.rand(2, 3, 17, 23, generator=generator)
    mask = torch.zeros(17, 23, dtype=torch.bool)
    mask[3:15, 5:19] = True
    torch.testing.assert_close(score(a, b, mask), score(a, torch.where(mask, b, -b), mask))
    assert float(score(a, b, mask)) < float(score(a, a, mask))
    with pytest.raises(ValueError, match="the mask selects no pixel"):
        score(a, a, torch.zeros_like(mask))
    with pytest.raises(ValueError, match="must have one size"):
        score(a, a, mask.T)


def test_masked_scores_by_hand(unchecked):
    a = torch.full((3, 13, 17), -0.2)
    mask = torch.ones(13, 17, dtype=torch.bool)
    assert float(masked_psnr(a, a + 0.2, mask)) == pytest.approx(20.0, abs=1e-4)
    c1 = 0.01**2
    assert float(masked_ssim(a, a + 0.2, mask)) == pytest.approx((2 * 0.4 * 0.5 + c1) / (0.16 + 0.25 + c1), abs=1e-4)
    with pytest.raises(ValueError, match="at least 11x11"):
        masked_ssim(a[:, :7], a[:, :7], mask[:7])


def test_blur_lowers_and_noise_raises_gradient_energy(generator):
    image = picture()
    assert gradient_energy(gaussian_blur(image, 3.0)) < 0.8 * gradient_energy(image)
    noisy = image + 0.2 * torch.randn(image.shape, generator=generator)
    assert gradient_energy(noisy) > 1.2 * gradient_energy(image)


def test_blur_keeps_means_and_constants():
    torch.testing.assert_close(gaussian_blur(torch.full((3, H, W), 0.3), 2.0), torch.full((3, H, W), 0.3))
    impulse = torch.zeros(1, 31, 31)
    impulse[0, 15, 15] = 1
    blurred = gaussian_blur(impulse, 2.0)[0]
    offset = torch.arange(31.0) - 15
    assert blurred.sum().item() == pytest.approx(1, abs=1e-5)
    assert (blurred.sum(0) * offset**2).sum().item() == pytest.approx(4.0, rel=0.03)  # variance sigma^2
    assert gaussian_blur(impulse, 0.0) is impulse


def test_sampling_at_pixel_centres_is_exact():
    image = picture()[None]
    y, x = torch.meshgrid(torch.arange(H) + 0.5, torch.arange(W) + 0.5, indexing="ij")
    xy = torch.stack([x, y], -1)[None]
    torch.testing.assert_close(sample_bilinear(image, xy), image, atol=1e-5, rtol=0)
    torch.testing.assert_close(sample_nearest(image, xy + 0.4), image)


def test_warp_of_a_plane_by_a_sideways_step():
    """A wall at depth 2 seen after a step of one pixel's width moves by exactly one pixel."""
    K = intrinsics_from_fov(60.0, (H, W))
    step = 2.0 / float(K[0, 0])
    c2w = torch.eye(4).repeat(2, T, 1, 1)
    c2w[1, :, 0, 3] = step
    camera = Camera(c2w, K.expand(2, T, 3, 3), (H, W))
    depth = torch.full((T, H, W), 2.0)
    video = picture().expand(T, -1, -1, -1)
    warped = depth_warp(video, depth, depth, camera[1], camera[0])
    torch.testing.assert_close(warped[..., :-1], video[..., 1:], atol=1e-3, rtol=0)
    seen = covisible(depth, depth, camera[1], camera[0])
    assert seen[..., :-1].all()
    assert not seen[..., -1].any()
    hidden = depth.clone()
    hidden[:, 10:20, 10:20] = 1.0  # something stands before the wall in the reference
    assert not covisible(depth, hidden, camera[1], camera[0])[:, 12:18, 10:18].any()


@pytest.mark.parametrize("turn", [(6.0, -3.0, 0.1), (-9.0, 2.0, -0.15), (0.0, 0.0, 0.3)])
def test_turns_are_measured_back(turn):
    """A picture taken by a turned and zoomed camera of a far textured sphere gives its turn back."""
    pan, tilt, log_zoom = turn
    size, fov = (H, W), 50.0
    K = intrinsics_from_fov(fov, size)
    reference = Camera(torch.eye(4), K, size)
    K_turned = K.clone()
    K_turned[0, 0] *= math.exp(log_zoom)
    K_turned[1, 1] *= math.exp(log_zoom)
    pose = CameraPath("pan_right", amount=pan).poses(2)[-1] @ CameraPath("tilt_up", amount=tilt).poses(2)[-1]
    frames = [sky(reference), sky(Camera(pose.float(), K_turned, size))]
    found = measure_turn(frames[0], frames[1], reference)
    assert found.pan_deg == pytest.approx(pan, abs=0.3)
    assert found.tilt_deg == pytest.approx(tilt, abs=0.3)
    assert found.log_zoom == pytest.approx(log_zoom, abs=0.02)


def sky(camera: Camera) -> torch.Tensor:
    """A pattern on the sphere of directions."""
    from mvtrack.geometry.camera import plucker_rays

    d = plucker_rays(camera)[..., :3]
    return torch.stack(
        [torch.sin(19 * d[..., 0] + 7 * d[..., 1]), torch.cos(23 * d[..., 1]), torch.sin(13 * d[..., 0] ** 2 * 9)]
    )
