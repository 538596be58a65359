"""Image scores on arrays in [-1, 1], of whole pictures and under masks; every function is pure.

SSIM is written out here, because torchmetrics does not import beside a torchvision that was built for another torch.
The masked scores are dycheck's (its mPSNR and mSSIM).
"""

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

WINDOW_PX, SIGMA_PX = 11, 1.5
_C1, _C2 = 0.01**2, 0.03**2  # of values in [0, 1]


def psnr(
    predicted: Float[Tensor, "*B 3 H W"], truth: Float[Tensor, "*B 3 H W"], mask: Bool[Tensor, "*B H W"] | None = None
) -> float:
    """Peak signal-to-noise ratio in dB over all values (or those under the mask). Values are clamped to [-1, 1]."""
    error = (predicted.clamp(-1, 1) - truth.clamp(-1, 1)).double().square()
    if mask is not None:
        if not mask.any():
            raise ValueError("the mask selects no pixel")
        error = error.movedim(-3, -1)[mask]
    return float(10 * torch.log10(4 / error.mean()))


def ssim(predicted: Float[Tensor, "*B 3 H W"], truth: Float[Tensor, "*B 3 H W"]) -> float:
    """Structural similarity (Wang et al. 2004): mean over pictures, channels and windows; values are clamped.

    11x11 Gaussian window of sigma 1.5, population covariance, windows that lie inside the picture: scikit-image's
    `gaussian_weights` setting. Raises ValueError for pictures smaller than a window.
    """
    _check_window(predicted)
    x, y = (_unit(v).double().reshape(-1, 1, *v.shape[-2:]) for v in (predicted, truth))
    mean_x, mean_y, of_xx, of_yy, of_xy = (_windowed(v) for v in (x, y, x * x, y * y, x * y))
    return float(_similarity(mean_x, mean_y, of_xx - mean_x**2, of_yy - mean_y**2, of_xy - mean_x * mean_y).mean())


def masked_psnr(
    predicted: Float[Tensor, "3 H W"], truth: Float[Tensor, "3 H W"], mask: Bool[Tensor, "H W"]
) -> Float[Tensor, ""]:
    """dB of one picture, over the pixels under the mask. Raises ValueError for an empty mask."""
    check_masked(predicted, truth, mask)
    error = (_unit(predicted) - _unit(truth)).square().mean(0)
    return -10 * torch.log10(error[mask].mean())


def masked_ssim(
    predicted: Float[Tensor, "3 H W"], truth: Float[Tensor, "3 H W"], mask: Bool[Tensor, "H W"]
) -> Float[Tensor, ""]:
    """Structural similarity of one picture.

    Windows are filled from the pixels under the mask (partial convolution), and the mean goes over the whole map:
    places without any such pixel count as 1, so the score falls less the smaller the mask is.
    """
    check_masked(predicted, truth, mask)
    _check_window(predicted)
    x, y, keep = _unit(predicted), _unit(truth), mask.to(predicted.dtype)[None]
    mean_x, mean_y, of_xx, of_yy, of_xy = (_masked_windows(v, keep) for v in (x, y, x * x, y * y, x * y))
    variance_x, variance_y = (of_xx - mean_x**2).clamp_min(0), (of_yy - mean_y**2).clamp_min(0)
    limit = (variance_x * variance_y).sqrt()
    covariance = (of_xy - mean_x * mean_y).clamp(-limit, limit)
    return _similarity(mean_x, mean_y, variance_x, variance_y, covariance).mean()


def check_masked(predicted: Tensor, truth: Tensor, mask: Tensor) -> None:
    """Raise ValueError unless two pictures and a mask have one size and the mask selects something."""
    if predicted.shape != truth.shape or predicted.shape[-2:] != mask.shape:
        raise ValueError(
            f"pictures and mask must have one size, got {tuple(predicted.shape)}, {tuple(truth.shape)} and "
            f"{tuple(mask.shape)}"
        )
    if not mask.any():
        raise ValueError("the mask selects no pixel")


def gradient_energy(video: Float[Tensor, "*B 3 H W"]) -> float:
    """Mean absolute difference of neighbouring pixels: a blurred picture has less of it, a noisy one more."""
    video = video.clamp(-1, 1)
    return float(video.diff(dim=-1).abs().mean() + video.diff(dim=-2).abs().mean())


def gaussian_blur(video: Float[Tensor, "*B C H W"], sigma_px: float) -> Float[Tensor, "*B C H W"]:
    """Separable Gaussian blur with repeated borders."""
    if sigma_px <= 0:
        return video
    radius = max(1, round(3 * sigma_px))
    kernel = _gaussian(radius, sigma_px, video)
    flat = video.reshape(-1, 1, *video.shape[-2:])
    flat = F.conv2d(F.pad(flat, (radius, radius, 0, 0), "replicate"), kernel[None, None, None])
    flat = F.conv2d(F.pad(flat, (0, 0, radius, radius), "replicate"), kernel[None, None, :, None])
    return flat.reshape(video.shape)


def _gaussian(radius: int, sigma_px: float, like: Tensor) -> Float[Tensor, "k"]:
    offset = torch.arange(-radius, radius + 1, dtype=like.dtype, device=like.device)
    kernel = torch.exp(-0.5 * (offset / sigma_px) ** 2)
    return kernel / kernel.sum()


def _similarity(mean_x: Tensor, mean_y: Tensor, variance_x: Tensor, variance_y: Tensor, covariance: Tensor) -> Tensor:
    likeness = (2 * mean_x * mean_y + _C1) * (2 * covariance + _C2)
    return likeness / ((mean_x**2 + mean_y**2 + _C1) * (variance_x + variance_y + _C2))


def _windowed(x: Float[Tensor, "N 1 H W"]) -> Float[Tensor, "N 1 h w"]:
    kernel = _gaussian(WINDOW_PX // 2, SIGMA_PX, x)
    return F.conv2d(F.conv2d(x, kernel[None, None, :, None]), kernel[None, None, None])


def _masked_windows(image: Float[Tensor, "3 H W"], mask: Float[Tensor, "1 H W"]) -> Float[Tensor, "3 h w"]:
    """Gaussian means of what is under the mask: along x, then along y with the mask of what came out of that."""
    kernel = _gaussian(WINDOW_PX // 2, SIGMA_PX, image)
    for shape in ((1, 1, 1, WINDOW_PX), (1, 1, WINDOW_PX, 1)):
        total = F.conv2d((image * mask)[:, None], kernel.view(shape))[:, 0]
        count = F.conv2d(mask[:, None], torch.ones_like(kernel).view(shape))[:, 0]
        image = torch.where(count > 0, total * WINDOW_PX / count.clamp_min(1), 0.0)
        mask = (count > 0).to(image.dtype)
    return image


def _unit(image: Tensor) -> Tensor:
    return (image.clamp(-1, 1) + 1) / 2


def _check_window(picture: Tensor) -> None:
    if min(picture.shape[-2:]) < WINDOW_PX:
        raise ValueError(f"SSIM needs pictures of at least 11x11 pixels, got {tuple(picture.shape[-2:])}")
