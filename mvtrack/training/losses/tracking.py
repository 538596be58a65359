"""The tracking loss in training: the head follows points from random anchors of both views (MVTrack4Gen §5.2, B.5).

The formula is `track_loss` in tracking_head/losses.py.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from mvtrack.config.run import RunConfig
from mvtrack.data.clip import TEMPORAL_STRIDE
from mvtrack.data.loader import Batch
from mvtrack.models.backbone import DiTOutput, Tap
from mvtrack.models.conditioning import head_cameras
from mvtrack.training.losses.base import TrainingBatch
from tracking_head import Cameras, Tracks, queries_from_truth, track_loss


@dataclass(frozen=True)
class TrackTargets:
    """Queries (latent frame, x, y) in raster pixels, where they count, and the truth at the latent anchors.

    cameras: at the anchors, where the head takes any.
    """

    txy: Float[Tensor, "B V P 3"]
    valid: Bool[Tensor, "B V P"]
    truth: Tracks
    cameras: Cameras | None = None

    def to(self, device: torch.device) -> "TrackTargets":
        cameras = self.cameras and Cameras(*(x.to(device) for x in self.cameras))
        return TrackTargets(self.txy.to(device), self.valid.to(device), self.truth.to(device), cameras)


class TrackingLoss:
    """The head travels with the network's weights (`network.tracking_head`)."""

    name = "tracking"
    sees_pictures = False
    seed_offset = 2

    def __init__(self, config: RunConfig) -> None:
        self.config, self.num_points = config.loss.tracking_options, config.loss.tracking_points
        self.weight = config.loss.tracking
        self.head, self.token_px, self.latent_px = (
            config.model.tracking,
            config.model.token_px(),
            config.model.codec.stride,
        )
        self.layer = config.model.tap_layer
        self.tap_layers = (self.layer,)

    def targets(self, batch: Batch, seeds: list[int]) -> TrackTargets:
        """seeds: draw each sample's points and queries."""
        cameras = head_cameras(batch.camera[:, :, ::TEMPORAL_STRIDE], self.head)
        return draw_track_targets(batch.tracks, self.num_points, seeds, cameras)

    def __call__(
        self, network: Callable[..., DiTOutput], batch: TrainingBatch, output: DiTOutput, taps: dict[int, Tap]
    ) -> dict[str, Float[Tensor, ""]]:
        targets, width_px = batch.targets[self.name], batch.latents.shape[-1] * self.latent_px
        tracks = network.tracking_head(*taps[self.layer], targets.txy, targets.valid, self.token_px, targets.cameras)
        loss = track_loss(tracks, targets.truth, width_px, self.config)
        parts = ("position", "visibility", "confidence")
        return {self.name: loss.total} | {f"{self.name}_{part}": getattr(loss, part).detach() for part in parts}


def draw_track_targets(
    tracks: Tracks, num_points: int, seeds: list[int], cameras: Cameras | None = None
) -> TrackTargets:
    """Draw up to `num_points` points per sample and, in every view, one anchor at which each can be seen (method §5).

    tracks: (B, V, T, N). A point has a query in each view that shows it at some anchor; points that no anchor shows
    come last and without a query. seeds: one per sample. cameras: of the anchors, see `head_cameras`.
    """
    anchored = tracks.frames(slice(None, None, TEMPORAL_STRIDE))
    shown = anchored.visible & anchored.valid[:, :, None]
    samples = []
    for b, seed in enumerate(seeds):
        generator = torch.Generator().manual_seed(seed)
        seen = shown[b].any(1).any(0)
        order = (torch.rand(len(seen), generator=generator) + seen.float()).argsort(descending=True)
        order = order[:num_points]
        part = Tracks(anchored.xy[b][:, :, order], anchored.visible[b][..., order], anchored.valid[b][:, order])
        samples.append((*queries_from_truth(part, generator), part.xy, part.visible))
    txy, valid, xy, visible = (torch.stack(x) for x in zip(*samples, strict=True))
    return TrackTargets(txy, valid, Tracks(xy, visible, valid), cameras)
