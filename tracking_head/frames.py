"""Between the frames that features have and the frames that videos have.

Video models fold frames: latent frame i stands at video frame i * stride, its anchor (method §5). Other features have
stride 1.
"""

from functools import lru_cache
from typing import Literal

import torch
from torch import Tensor

from tracking_head.shapes import Float, Int


def anchor_queries(
    txy: Float[Tensor, "*any 3"], latent_frames: int, stride: int = 4
) -> tuple[Float[Tensor, "*any 3"], Int[Tensor, "*any"]]:
    """Queries at video frames as queries at the nearest latent frame (the earlier of two), and how far each moved.

    The second result is anchor minus asked frame, in video frames: not 0 where the point was asked for between two
    anchors, and may by then have moved or be hidden; say so to whoever asked. Raises ValueError for frames outside
    the clip.
    """
    frame = txy[..., 0]
    last = (latent_frames - 1) * stride
    if (frame < 0).any() or (frame > last).any():
        raise ValueError(f"query frames must lie in [0, {last}], got {frame.min().item():g} to {frame.max().item():g}")
    latent = torch.ceil(frame / stride - 0.5) + 0.0  # never a negative zero
    return torch.cat([latent[..., None], txy[..., 1:]], -1), (latent * stride - frame).round().long()


def to_video_rate(
    values: Float[Tensor, "*lead f N C"], stride: int = 4, kind: Literal["linear", "spline"] = "linear"
) -> Float[Tensor, "*lead T N C"]:
    """Values at f anchors, interpolated to all T = (f - 1) stride + 1 video frames.

    spline: the natural cubic spline through the anchors, which follows smooth motion between them more closely.
    """
    weights = interpolation_weights(values.shape[-3], stride, kind).to(values)
    return torch.einsum("tf,...fnc->...tnc", weights, values)


@lru_cache(maxsize=32)
def interpolation_weights(frames: int, stride: int, kind: Literal["linear", "spline"]) -> Float[Tensor, "T f"]:
    """What every anchor contributes to every video frame, float64."""
    time = torch.arange((frames - 1) * stride + 1, dtype=torch.float64) / stride
    left = time.floor().long().clamp(max=max(0, frames - 2))
    u = (time - left)[:, None]
    unit = torch.eye(frames, dtype=torch.float64)
    right = (left + 1).clamp(max=frames - 1)
    linear = (1 - u) * unit[left] + u * unit[right]
    if kind == "linear" or frames < 3:
        return linear
    bend = torch.zeros_like(unit)  # second derivatives at the anchors, 0 at both ends
    inner = torch.arange(1, frames - 1)
    system = 4 * torch.eye(frames - 2, dtype=torch.float64)
    system += torch.diag(torch.ones(frames - 3, dtype=torch.float64), 1)
    system += torch.diag(torch.ones(frames - 3, dtype=torch.float64), -1)
    bend[inner] = torch.linalg.solve(system, 6 * (unit[inner - 1] - 2 * unit[inner] + unit[inner + 1]))
    return linear + ((1 - u) ** 3 - (1 - u)) * bend[left] / 6 + (u**3 - u) * bend[right] / 6
