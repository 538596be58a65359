"""From features and queries to tracks: the head behind a door that checks what comes in."""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from tracking_head.frames import to_video_rate
from tracking_head.head import Cameras, HeadOutput, TrackingHead
from tracking_head.mvtap import MVTAP
from tracking_head.queries import Features, Queries
from tracking_head.shapes import Float
from tracking_head.tracks import Tracks


@dataclass(frozen=True)
class SoftTracks:
    """Tracks before a decision: raster pixels, and probabilities of being visible and of lying near the truth."""

    xy: Float[Tensor, "*B V T N 2"]
    visible: Float[Tensor, "*B V T N"]
    confidence: Float[Tensor, "*B V T N"]


class Tracker:
    """`tracker(features, queries) -> Tracks`, without gradients.

    head: or MV-TAP whole, for features of its encoder.
    threshold: a point counts as visible where its probability of being visible exceeds it.
    weigh_confidence: visibility x confidence must exceed it instead (MV-TAP's rule, with 0.6): hides points that are
        seen but not found, which costs occlusion accuracy.
    interpolation: of positions between anchors, where features stand at some video frames only.
    """

    def __init__(
        self, head: TrackingHead | MVTAP, threshold: float = 0.5, weigh_confidence: bool = False,
        interpolation: Literal["linear", "spline"] = "spline",
    ) -> None:  # fmt: skip
        self.head = head
        self.threshold = threshold
        self.weigh_confidence = weigh_confidence
        self.interpolation = interpolation

    def __call__(
        self, features: Features, queries: Queries, cameras: Cameras | None = None, frame_stride: int = 1
    ) -> Tracks:
        """Tracks of all queries in all views where they are valid, forward and backward from their frames.

        frame_stride: > 1: features stand at every frame_stride-th video frame, and tracks come at video rate. Query
        frames count feature frames either way (frames.anchor_queries). Raises ValueError where features, queries and
        cameras do not belong together.
        """
        soft = self.soft(features, queries, cameras, frame_stride)
        return Tracks(soft.xy, (self.score(soft) > self.threshold) & queries.valid[..., None, :], queries.valid)

    def score(self, soft: SoftTracks) -> Float[Tensor, "*B V T N"]:
        """What must exceed `threshold` for a point to count as visible."""
        return soft.visible * soft.confidence if self.weigh_confidence else soft.visible

    @torch.no_grad()
    def soft(
        self, features: Features, queries: Queries, cameras: Cameras | None = None, frame_stride: int = 1
    ) -> SoftTracks:
        """The same, as probabilities. Where a query is not valid, xy is 0 and the probabilities are 0.

        The head works where it lies; tracks come back to where the queries lie.
        """
        if frame_stride < 1:
            raise ValueError(f"frame_stride must be at least 1, got {frame_stride}")
        features.check(queries)
        batched = features.q.ndim == 7
        q, k, txy, valid = features.q, features.k, queries.txy, queries.valid
        same = k is q
        if not batched:
            q, k, txy, valid = q[None], k[None], txy[None], valid[None]
            cameras = None if cameras is None else Cameras(*(x[None] for x in cameras))
        device = next(self.head.parameters()).device
        q, asked, seen = (x.to(device) for x in (q, txy, valid))
        k = q if same else k.to(device)
        cameras = None if cameras is None else Cameras(*(x.to(device) for x in cameras))
        output = self.head(q, k, asked, seen, features.token_px, cameras).last()
        output = at_video_rate(HeadOutput(*(x.to(txy.device) for x in output)), frame_stride, self.interpolation)
        seen = valid[:, :, None]
        xy = torch.where(seen[..., None], output.xy[0], 0.0)
        visible, confidence = (
            torch.where(seen, logit[0].sigmoid(), 0.0) for logit in (output.visible_logit, output.confidence_logit)
        )
        return SoftTracks(xy, visible, confidence) if batched else SoftTracks(xy[0], visible[0], confidence[0])


def at_video_rate(output: HeadOutput, stride: int, kind: Literal["linear", "spline"]) -> HeadOutput:
    """Positions interpolated from anchors to video frames as `kind` says, logits linearly."""
    if stride == 1:
        return output
    visible, confidence = (to_video_rate(x[..., None], stride)[..., 0] for x in output[1:])
    return HeadOutput(to_video_rate(output.xy, stride, kind), visible, confidence)
