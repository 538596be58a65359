"""Image scores on arrays in [-1, 1]; every function is pure and takes any leading shape."""

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor


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


def gradient_energy(video: Float[Tensor, "*B 3 H W"]) -> float:
    """Mean absolute difference of neighbouring pixels: a blurred picture has less of it, a noisy one more."""
    video = video.clamp(-1, 1)
    return float(video.diff(dim=-1).abs().mean() + video.diff(dim=-2).abs().mean())


def gaussian_blur(video: Float[Tensor, "*B C H W"], sigma_px: float) -> Float[Tensor, "*B C H W"]:
    """Separable Gaussian blur with repeated borders."""
    if sigma_px <= 0:
        return video
    radius = max(1, round(3 * sigma_px))
    offset = torch.arange(-radius, radius + 1, dtype=video.dtype)
    kernel = torch.exp(-0.5 * (offset / sigma_px) ** 2)
    kernel = (kernel / kernel.sum()).to(video.device)
    flat = video.reshape(-1, 1, *video.shape[-2:])
    flat = F.conv2d(F.pad(flat, (radius, radius, 0, 0), "replicate"), kernel[None, None, None])
    flat = F.conv2d(F.pad(flat, (0, 0, radius, radius), "replicate"), kernel[None, None, :, None])
    return flat.reshape(video.shape)
