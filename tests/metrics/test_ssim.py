import pytest
import torch

from mvtrack.metrics.ssim import ssim


def video(array) -> torch.Tensor:
    return torch.from_numpy(array).permute(2, 0, 1).double() / 127.5 - 1


def test_golden_numbers_of_skimage(image_pair):
    a, b = (video(image_pair[f"{name}_uint8"]) for name in ("img0", "img1"))
    assert ssim(a, b) == pytest.approx(float(image_pair["ssim_skimage_gaussian"]), rel=1e-6)


def test_mean_over_pictures_and_exact_extremes(generator):
    x = 2 * torch.rand(2, 3, 17, 13, generator=generator) - 1
    assert ssim(x, x) == pytest.approx(1)
    y = torch.stack([x[0], -x[1]])
    assert ssim(x, y) == pytest.approx((1 + ssim(x[1], y[1])) / 2)
    assert ssim(x[1], y[1]) < 0


def test_too_small_pictures_are_refused(unchecked):
    with pytest.raises(ValueError, match=r"at least 11x11 pixels, got \(10, 13\)"):
        ssim(torch.zeros(3, 10, 13), torch.zeros(3, 10, 13))
