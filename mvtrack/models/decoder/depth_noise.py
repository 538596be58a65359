"""Structured noise for depth in training: wrong over areas, not at pixels (Depth Guided Decoder §3.3)."""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

SIDES = (32, 64, 128)  # of the noise maps; the scan of the paper has "3, 64, 128"
AMPLITUDES = (0.1, 0.1 / 3, 0.1 / 9)  # of the clip's median depth


def independently_disturbed(
    depth: Float[Tensor, "*any H W"],
    median: float,
    generator: torch.Generator | None = None,
    amplitude: float = AMPLITUDES[0],
) -> Float[Tensor, "*any H W"]:
    """Depth plus uniform noise of every pixel's own, which the paper compares with; kept above a tenth of itself."""
    noise = amplitude * median * (torch.rand(depth.shape, generator=generator) * 2 - 1)
    return torch.maximum(depth + noise.to(depth), 0.1 * depth)


def disturbed(
    depth: Float[Tensor, "*any H W"], median: float, generator: torch.Generator | None = None,
    sides: tuple[int, ...] = SIDES, amplitudes: tuple[float, ...] = AMPLITUDES,
) -> Float[Tensor, "*any H W"]:  # fmt: skip
    """Depth plus uniform noise of several sizes, each map scaled up to the picture; kept above a tenth of itself.

    Each frame has noise of its own. sides: cells across a picture of 256 pixels, as in the paper; a picture of another
    size has as many cells a pixel, at least two.
    """
    height, width = depth.shape[-2:]
    frames, noise = depth.reshape(-1, height, width), 0.0
    for side, amplitude in zip(sides, amplitudes, strict=True):
        cells = tuple(max(2, round(n * side / 256)) for n in (height, width))
        low = torch.rand(len(frames), 1, *cells, generator=generator) * 2 - 1
        noise = noise + amplitude * median * F.interpolate(low, (height, width), mode="bilinear", align_corners=False)
    return torch.maximum(frames + noise[:, 0].to(depth), 0.1 * frames).view_as(depth)
