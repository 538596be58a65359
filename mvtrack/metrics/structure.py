"""SSIM of colour images (Wang et al. 2004), with the window that torchmetrics and most papers use."""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

_C1, _C2 = 0.01**2, 0.03**2  # for values in [0, 1]


def ssim(
    predicted: Float[Tensor, "3 H W"], truth: Float[Tensor, "3 H W"], sigma_px: float = 1.5, radius_px: int = 5
) -> float:
    """Structural similarity of two images in [-1, 1] (clamped): at most 1, for equal images.

    A Gaussian window of 2 radius_px + 1 pixels (11 x 11), population covariance, borders reflected without repeating
    the edge, mean over pixels and colours; computed in float64. ValueError for images smaller than the window reaches.
    """
    if predicted.shape != truth.shape:
        raise ValueError(f"images must have one size, got {tuple(predicted.shape)} and {tuple(truth.shape)}")
    if min(truth.shape[-2:]) <= radius_px:
        raise ValueError(f"SSIM needs sides of more than {radius_px} pixels, got {tuple(truth.shape[-2:])}")
    a, b = ((x.double().clamp(-1, 1) + 1) / 2 for x in (predicted, truth))
    mean_a, mean_b, aa, bb, ab = _smooth(torch.stack([a, b, a * a, b * b, a * b]), sigma_px, radius_px)
    var_a, var_b, covariance = (aa - mean_a**2).clamp_min(0), (bb - mean_b**2).clamp_min(0), ab - mean_a * mean_b
    luminance = (2 * mean_a * mean_b + _C1) / (mean_a**2 + mean_b**2 + _C1)
    structure = (2 * covariance + _C2) / (var_a + var_b + _C2)
    return float((luminance * structure).mean())


def _smooth(images: Float[Tensor, "N 3 H W"], sigma_px: float, radius_px: int) -> Float[Tensor, "N 3 H W"]:
    offset = torch.arange(-radius_px, radius_px + 1, dtype=images.dtype)
    kernel = torch.exp(-0.5 * (offset / sigma_px) ** 2)
    kernel = kernel / kernel.sum()
    flat = F.pad(images.flatten(0, 1)[:, None], [radius_px] * 4, mode="reflect")
    flat = F.conv2d(F.conv2d(flat, kernel[None, None, :, None]), kernel[None, None, None])
    return flat.view(images.shape)
