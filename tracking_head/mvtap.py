"""MV-TAP whole: its encoder of pictures, and the tracking head in windows that slide over the video.

The head is `TrackingHead` with MV-TAP's options; weights as released come in by `mvtap_weights.py`.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from tracking_head.checks import check_fields
from tracking_head.config import HeadConfig
from tracking_head.correlation import CorrelationFeatures, prepare
from tracking_head.encoder import STRIDE, ConvEncoder
from tracking_head.head import Cameras, HeadOutput, TrackingHead
from tracking_head.pyramid import CorrelationConfig
from tracking_head.queries import Features, refuse_outside
from tracking_head.shapes import Bool, Float, Int

INPUT_SIZE = (384, 512)  # (H, W) of the pictures that the released weights were trained on
_FRAMES = 8  # encoded together
_RELEASED = HeadConfig(
    correlation=CorrelationConfig(softmax="none", scaled=False, coarse="pool", coordinates="index"),
    displacement=True,
    camera="mvtap",
    time_length=16,
)


@dataclass(frozen=True)
class MVTAPConfig:
    """Defaults are the released model's. width: channels of features. window: frames that are tracked together; windows
    overlap by half."""

    head: HeadConfig = _RELEASED
    width: int = 128
    window: int = 16

    def __post_init__(self) -> None:
        check_fields(self, {"width": 4, "window": 2})
        if self.width % 4:
            raise ValueError(f"mvtap.width must be a multiple of 4, got {self.width}")


class MVTAP(nn.Module):
    """Pictures to features (`encode`), features and queries to tracks; a `Tracker` takes it in a head's place.

    MV-TAP's own code follows points forward in time only. Here frames before a query are tracked in the video reversed,
    and at the query's frame the track is the query.
    """

    def __init__(self, config: MVTAPConfig | None = None) -> None:
        super().__init__()
        self.config = config or MVTAPConfig()
        self.encoder = ConvEncoder(self.config.width)
        self.head = TrackingHead(self.config.head)

    def encode(self, video: Float[Tensor, "V T 3 H W"]) -> Features:
        """Features of unit length of V views, RGB in [-1, 1], a few frames at a time, where the encoder lies.

        Raises ValueError for sides that are no multiples of 4.
        """
        if video.shape[-2] % STRIDE or video.shape[-1] % STRIDE:
            raise ValueError(f"pictures must have sides that are multiples of {STRIDE}, got {tuple(video.shape[-2:])}")
        weight = self.encoder.stem.weight
        parts = [self.encoder(part.to(weight)) for part in video.flatten(0, 1).split(_FRAMES)]
        maps = rearrange(torch.cat(parts), "(v t) c h w -> v t h w 1 c", v=len(video))
        maps = F.normalize(maps, dim=-1)
        return Features(maps, maps, STRIDE)

    def forward(
        self, q: Float[Tensor, "B V T h w heads d"], k: Float[Tensor, "B V T h w heads d"],
        query_txy: Float[Tensor, "B V N 3"], valid: Bool[Tensor, "B V N"], token_px: int,
        cameras: Cameras | None = None,
    ) -> HeadOutput:  # fmt: skip
        """As `TrackingHead`, after the last iteration only (I = 1)."""
        size = (q.shape[3] * token_px, q.shape[4] * token_px)
        refuse_outside(query_txy, valid, q.shape[2], size)
        txy = torch.where(valid[..., None], query_txy, 0.0)
        prepared = prepare(q, k, txy, token_px, self.config.head.correlation)
        time = torch.arange(q.shape[2], device=q.device)
        sweep = (prepared, txy, valid, size[::-1], cameras)
        later = self.sweep(*sweep, time)
        earlier = self.sweep(*sweep, time.flip(0))
        before = time[:, None] < txy[..., None, :, 0]
        xy, visible, confident = (
            torch.where(before if a.ndim == before.ndim + 1 else before[..., None], b, a)
            for a, b in zip(later, earlier, strict=True)
        )
        here = (time[:, None] == txy[..., None, :, 0])[..., None]
        return HeadOutput(torch.where(here, txy[..., None, :, 1:], xy), visible, confident)

    def sweep(
        self, prepared: CorrelationFeatures, txy: Float[Tensor, "B V N 3"], valid: Bool[Tensor, "B V N"],
        extent_px: tuple[float, float], cameras: Cameras | None, order: Int[Tensor, "T"],
    ) -> HeadOutput:  # fmt: skip
        """Tracks through all frames, taken in an order: ascending, as MV-TAP does it, or descending (I = 1).

        At frames that come before a point's query they mean nothing. Windows in which no query has come are left out.
        """
        shape = (*txy.shape[:2], len(order), txy.shape[2])
        xy = txy[:, :, None, :, 1:].expand(*shape, 2).clone()
        logits = xy.new_zeros(2, *shape)
        for start, output in self.windows(prepared, txy, valid, extent_px, cameras, order):
            frames = order[start : start + self.config.window]
            new = (x[-1][:, :, : len(frames)] for x in output)
            xy[:, :, frames], logits[0][:, :, frames], logits[1][:, :, frames] = new
        return HeadOutput(xy[None], logits[:1], logits[1:])

    def windows(
        self, prepared: CorrelationFeatures, txy: Float[Tensor, "B V N 3"], valid: Bool[Tensor, "B V N"],
        extent_px: tuple[float, float], cameras: Cameras | None, order: Int[Tensor, "T"],
    ) -> Iterator[tuple[int, HeadOutput]]:  # fmt: skip
        """Where each window starts in `order`, and its estimates after every iteration; the last frame is repeated to
        fill the last window.

        Points whose query lies in the part that two windows share go on from the first one's estimates; those whose
        query comes later start at it, and correlate with nothing as long as it lies beyond the window.
        """
        length, step = self.config.window, self.config.window // 2
        moment = order.argsort()[txy[..., 0].long()]
        first = int(torch.where(valid, moment, len(order) - 1).min())
        origin = txy[:, :, None, :, 1:].expand(-1, -1, length, -1, -1)
        xy, logits = origin, torch.zeros_like(origin)
        for start in range(0, max(len(order) - length, 0) + step, step):
            if start + length <= first:
                continue
            shown = order[torch.arange(start, start + length, device=order.device).clamp_max(len(order) - 1)]
            part = None if cameras is None else Cameras(*(x[:, :, shown] for x in cameras))
            window = prepared._replace(shown=shown, active=(moment < start + length).flatten())
            output = self.head.refine(window, xy, logits, valid, extent_px, part)
            yield start, output
            known = (moment < start + length)[:, :, None, :, None]
            last = output.xy[-1], torch.stack([output.visible_logit[-1], output.confidence_logit[-1]], -1)
            moved = [torch.cat([x[:, :, step:], x[:, :, -1:].expand(-1, -1, step, -1, -1)], 2) for x in last]
            xy, logits = torch.where(known, moved[0], origin), torch.where(known, moved[1], 0.0)
