"""PSNR, SSIM and LPIPS over a part of the picture, as dycheck defines them for pixels that the input saw (its mPSNR,
mSSIM and mLPIPS)."""

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from mvtrack.metrics.perceptual import Lpips

_WINDOW, _SIGMA = 11, 1.5
_K1, _K2 = 0.01, 0.03


def masked_psnr(
    predicted: Float[Tensor, "3 H W"], truth: Float[Tensor, "3 H W"], mask: Bool[Tensor, "H W"]
) -> Float[Tensor, ""]:
    """dB of one picture in [-1, 1], over the pixels under the mask. Raises ValueError for an empty mask."""
    _check(predicted, truth, mask)
    error = (_unit(predicted) - _unit(truth)).square().mean(0)
    return -10 * torch.log10(error[mask].mean())


def masked_ssim(
    predicted: Float[Tensor, "3 H W"], truth: Float[Tensor, "3 H W"], mask: Bool[Tensor, "H W"]
) -> Float[Tensor, ""]:
    """Structural similarity of one picture in [-1, 1]; 11x11 Gaussian window of sigma 1.5.

    Windows are filled from the pixels under the mask (partial convolution), and the mean goes over the whole map:
    places without any such pixel count as 1, so the score falls less the smaller the mask is.
    """
    _check(predicted, truth, mask)
    if min(mask.shape) < _WINDOW:
        raise ValueError(f"SSIM needs pictures of at least 11x11 pixels, got {tuple(mask.shape)}")
    x, y, keep = _unit(predicted), _unit(truth), mask.to(predicted.dtype)[None]
    mean_x, mean_y = _windowed(x, keep), _windowed(y, keep)
    variance_x = (_windowed(x * x, keep) - mean_x**2).clamp_min(0)
    variance_y = (_windowed(y * y, keep) - mean_y**2).clamp_min(0)
    covariance = _windowed(x * y, keep) - mean_x * mean_y
    limit = (variance_x * variance_y).sqrt()
    covariance = covariance.clamp(-limit, limit)
    c1, c2 = _K1**2, _K2**2
    likeness = (2 * mean_x * mean_y + c1) * (2 * covariance + c2)
    return (likeness / ((mean_x**2 + mean_y**2 + c1) * (variance_x + variance_y + c2))).mean()


def masked_lpips(
    network: Lpips, predicted: Float[Tensor, "3 H W"], truth: Float[Tensor, "3 H W"], mask: Bool[Tensor, "H W"]
) -> Float[Tensor, ""]:
    """LPIPS of one picture in [-1, 1] whose pixels outside the mask are black in both, averaged under the mask."""
    _check(predicted, truth, mask)
    pair = (torch.where(mask, image, -1.0)[None] for image in (predicted, truth))
    return network.distance_map(*pair)[0][mask].mean()


def _unit(image: Tensor) -> Tensor:
    return (image.clamp(-1, 1) + 1) / 2


def _windowed(image: Float[Tensor, "3 H W"], mask: Float[Tensor, "1 H W"]) -> Float[Tensor, "3 h w"]:
    """Gaussian means of what is under the mask: along x, then along y with the mask of what came out of that."""
    offset = torch.arange(_WINDOW, dtype=image.dtype, device=image.device) - _WINDOW // 2
    kernel = torch.exp(-0.5 * (offset / _SIGMA) ** 2)
    kernel = kernel / kernel.sum()
    for shape in ((1, 1, 1, _WINDOW), (1, 1, _WINDOW, 1)):
        total = F.conv2d((image * mask)[:, None], kernel.view(shape))[:, 0]
        count = F.conv2d(mask[:, None], torch.ones_like(kernel).view(shape))[:, 0]
        image = torch.where(count > 0, total * _WINDOW / count.clamp_min(1), 0.0)
        mask = (count > 0).to(image.dtype)
    return image


def _check(predicted: Tensor, truth: Tensor, mask: Tensor) -> None:
    if predicted.shape != truth.shape or predicted.shape[-2:] != mask.shape:
        raise ValueError(
            f"pictures and mask must have one size, got {tuple(predicted.shape)}, {tuple(truth.shape)} and "
            f"{tuple(mask.shape)}"
        )
    if not mask.any():
        raise ValueError("the mask selects no pixel")
