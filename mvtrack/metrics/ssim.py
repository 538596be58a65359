"""Structural similarity (Wang et al. 2004) as published papers compute it: Gaussian window, whole windows only."""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

WINDOW_PX, SIGMA_PX = 11, 1.5
_K1, _K2, _RANGE = 0.01, 0.03, 2.0


def ssim(predicted: Float[Tensor, "*B 3 H W"], truth: Float[Tensor, "*B 3 H W"]) -> float:
    """Mean over pictures, channels and windows; values are clamped to [-1, 1].

    11x11 Gaussian window of sigma 1.5, population covariance, windows that lie inside the picture: scikit-image's
    `gaussian_weights` setting. Raises ValueError for pictures smaller than a window.
    """
    if min(predicted.shape[-2:]) < WINDOW_PX:
        raise ValueError(f"SSIM needs pictures of at least 11x11 pixels, got {tuple(predicted.shape[-2:])}")
    x, y = (v.clamp(-1, 1).double().reshape(-1, 1, *v.shape[-2:]) for v in (predicted, truth))
    mean_x, mean_y = _windowed(x), _windowed(y)
    variance_x, variance_y = _windowed(x * x) - mean_x**2, _windowed(y * y) - mean_y**2
    covariance = _windowed(x * y) - mean_x * mean_y
    c1, c2 = (_K1 * _RANGE) ** 2, (_K2 * _RANGE) ** 2
    # brightness must count from black, not from grey
    lift_x, lift_y = mean_x + 1, mean_y + 1
    brightness = (2 * lift_x * lift_y + c1) / (lift_x**2 + lift_y**2 + c1)
    return float((brightness * (2 * covariance + c2) / (variance_x + variance_y + c2)).mean())


def _windowed(x: Float[Tensor, "N 1 H W"]) -> Float[Tensor, "N 1 h w"]:
    offset = torch.arange(WINDOW_PX, dtype=x.dtype) - WINDOW_PX // 2
    kernel = torch.exp(-0.5 * (offset / SIGMA_PX) ** 2)
    kernel = kernel / kernel.sum()
    return F.conv2d(F.conv2d(x, kernel[None, None, :, None]), kernel[None, None, None])
