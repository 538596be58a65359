"""Losses on tracks after every iteration (MVTrack4Gen B.5, method §6)."""

from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from tracking_head.checks import check_fields
from tracking_head.head import HeadOutput
from tracking_head.shapes import Float
from tracking_head.tracks import Tracks


@dataclass(frozen=True)
class TrackLossConfig:
    """Weights and thresholds. Pixels are those of an image `reference_width_px` wide, so that they mean the same at
    every resolution; the peers use pixels of their training images (512 wide).

    gamma: iteration i of I counts gamma^(I - 1 - i) in the position loss; 1: all alike (the paper's eq. 19).
    hidden: weight of a plain L1 on positions of hidden points (CoTracker3: 0.01; MV-TAP and the paper: 0).
    """

    position: float = 0.05
    confidence: float = 1.0
    visibility: float = 1.0
    hidden: float = 0.0
    gamma: float = 0.8
    huber_px: float = 6.0
    confident_px: float = 12.0
    reference_width_px: float = 512.0

    def __post_init__(self) -> None:
        check_fields(self, dict.fromkeys(("position", "confidence", "visibility", "hidden"), 0))
        if not 0 < self.gamma <= 1:
            raise ValueError(f"track_loss.gamma must lie in (0, 1], got {self.gamma}")
        if min(self.huber_px, self.confident_px, self.reference_width_px) <= 0:
            raise ValueError("track_loss.huber_px, confident_px and reference_width_px must be positive")


class TrackLoss(NamedTuple):
    """The weighted sum, and its parts before weighting."""

    total: Float[Tensor, ""]
    position: Float[Tensor, ""]
    confidence: Float[Tensor, ""]
    visibility: Float[Tensor, ""]
    hidden: Float[Tensor, ""]


def track_loss(output: HeadOutput, truth: Tracks, width_px: float, config: TrackLossConfig) -> TrackLoss:
    """truth: batched tracks at the head's frames, valid where a query was. width_px: of the image that xy is in.

    Every part is a mean over its points (positions and confidence: visible ones, visibility: valid ones) per sample,
    then over samples and iterations, so it does not depend on how a batch is split; a sample without such a point
    counts as 0. The peers' confidence loss is divided by all points instead, their visibility loss takes points that
    are not valid too, and one of them puts logits through the sigmoid twice. Raises ValueError for truth of another
    shape.
    """
    if truth.xy.shape != output.xy.shape[1:]:
        raise ValueError(f"truth must be {tuple(output.xy.shape[1:])} (B, V, T, N, 2), got {tuple(truth.xy.shape)}")
    valid = truth.valid[:, :, None].expand_as(truth.visible)
    seen, unseen = (valid & truth.visible).float(), (valid & ~truth.visible).float()
    scale = config.reference_width_px / width_px
    weights = config.gamma ** torch.arange(len(output.xy) - 1, -1, -1.0, device=truth.xy.device)
    xy, target = output.xy.float() * scale, (truth.xy * scale).expand_as(output.xy)
    position = (weights * position_loss(xy, target, seen, config.huber_px)).mean()
    hidden = (weights * position_loss(xy, target, unseen, None)).mean()
    close = ((xy.detach() - target).square().sum(-1) <= config.confident_px**2).float()
    confidence = logit_loss(output.confidence_logit, close, seen).mean()
    visible = truth.visible.float().expand_as(output.visible_logit)
    visibility = logit_loss(output.visible_logit, visible, valid.float()).mean()
    total = config.position * position + config.confidence * confidence + config.visibility * visibility
    return TrackLoss(total + config.hidden * hidden, position, confidence, visibility, hidden)


def position_loss(
    xy: Float[Tensor, "I B V T N 2"],
    target: Float[Tensor, "I B V T N 2"],
    weight: Float[Tensor, "B V T N"],
    huber_px: float | None,
) -> Float[Tensor, "I"]:
    """Huber (L1 for None) of positions, mean over x and y, weighted mean per sample, mean over samples."""
    if huber_px is None:
        error = (xy - target).abs()
    else:
        error = F.huber_loss(xy, target, reduction="none", delta=huber_px)
    return _weighted_mean(error.mean(-1), weight)


def logit_loss(
    logit: Float[Tensor, "I B V T N"], target: Float[Tensor, "I B V T N"], weight: Float[Tensor, "B V T N"]
) -> Float[Tensor, "I"]:
    """Binary cross-entropy of logits, in float32, weighted mean per sample, mean over samples."""
    with torch.autocast(logit.device.type, enabled=False):
        error = F.binary_cross_entropy_with_logits(logit.to(target.dtype), target, reduction="none")
    return _weighted_mean(error, weight)


def _weighted_mean(error: Float[Tensor, "I B V T N"], weight: Float[Tensor, "B V T N"]) -> Float[Tensor, "I"]:
    return ((error * weight).sum((2, 3, 4)) / (weight.sum((1, 2, 3)) + 1e-6)).mean(1)
