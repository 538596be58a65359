"""Between the frames that features have and the frames that videos have.

Video models fold frames: latent frame i stands at video frame i * stride, its anchor (method §5). Other features have
stride 1.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor


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


def to_video_rate(values: Float[Tensor, "*lead f N C"], stride: int = 4) -> Float[Tensor, "*lead T N C"]:
    """Values at f anchors, linearly interpolated to all T = (f - 1) stride + 1 video frames."""
    *lead, frames, points, channels = values.shape
    flat = values.movedim(-3, -1).reshape(-1, points * channels, frames)
    full = F.interpolate(flat, size=(frames - 1) * stride + 1, mode="linear", align_corners=True)
    return full.reshape(*lead, points, channels, -1).movedim(-1, -3)
