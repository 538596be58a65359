"""What the tracking head is asked in training: points at random anchors of both views, and where they really are."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from mvtrack.data.clip import TEMPORAL_STRIDE
from mvtrack.models.dit import TrackRequest
from tracking_head import Cameras, Tracks, queries_from_truth


@dataclass(frozen=True)
class TrackTask:
    """Queries (latent frame, x, y) in raster pixels, where they count, and the truth at the latent anchors.

    cameras: at the anchors, where the head takes any.
    """

    txy: Float[Tensor, "B V P 3"]
    valid: Bool[Tensor, "B V P"]
    truth: Tracks
    cameras: Cameras | None = None

    def to(self, device: torch.device) -> "TrackTask":
        cameras = self.cameras and Cameras(*(x.to(device) for x in self.cameras))
        return TrackTask(self.txy.to(device), self.valid.to(device), self.truth.to(device), cameras)

    def request(self, layer: int, token_px: int) -> TrackRequest:
        """The same as the network takes it."""
        return TrackRequest(self.txy, self.valid, layer, token_px, self.cameras)


def draw_track_task(tracks: Tracks, num_points: int, seeds: list[int], cameras: Cameras | None = None) -> TrackTask:
    """Draw `num_points` points per sample and, in every view, one anchor at which each can be seen (method §5).

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
        order = order[torch.arange(num_points) % len(order)]  # repeats where a scene has fewer points
        part = Tracks(anchored.xy[b][:, :, order], anchored.visible[b][..., order], anchored.valid[b][:, order])
        samples.append((*queries_from_truth(part, generator), part.xy, part.visible))
    txy, valid, xy, visible = (torch.stack(x) for x in zip(*samples, strict=True))
    return TrackTask(txy, valid, Tracks(xy, visible, valid), cameras)
