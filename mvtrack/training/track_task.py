"""What the tracking head is asked in training: points at random anchors of both views, and where they really are."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from mvtrack.backbone.dit import TrackRequest
from mvtrack.video_clip import TEMPORAL_STRIDE
from tracking_head import Tracks


@dataclass(frozen=True)
class TrackTask:
    """Queries (latent frame, x, y) in raster pixels, where they count, and the truth at the latent anchors."""

    txy: Float[Tensor, "B V P 3"]
    valid: Bool[Tensor, "B V P"]
    truth: Tracks

    def to(self, device: torch.device) -> "TrackTask":
        return TrackTask(self.txy.to(device), self.valid.to(device), self.truth.to(device))

    def request(self, layer: int, token_px: int) -> TrackRequest:
        """The same as the network takes it."""
        return TrackRequest(self.txy, self.valid, layer, token_px)


def draw_track_task(tracks: Tracks, size: tuple[int, int], num_points: int, seeds: list[int]) -> TrackTask:
    """Draw `num_points` points per sample and, in every view, one anchor at which each can be seen (method §5).

    tracks: (B, V, T, N) of images of `size` (H, W). A point has a query in each view that shows it at some anchor;
    points that no anchor shows come last and without a query. seeds: one per sample.
    """
    anchored = tracks.frames(slice(None, None, TEMPORAL_STRIDE))
    inside = ((anchored.xy >= 0) & (anchored.xy < anchored.xy.new_tensor([size[1], size[0]]))).all(-1)
    shown = anchored.visible & inside & anchored.valid[:, :, None]
    samples = []
    for b, seed in enumerate(seeds):
        generator = torch.Generator().manual_seed(seed)
        seen = shown[b].any((0, 1))
        order = (torch.rand(len(seen), generator=generator) + seen.float()).argsort(descending=True)
        order = order[torch.arange(num_points) % len(order)]  # repeats where a scene has fewer points
        part = shown[b][..., order]
        draw = torch.where(part, torch.rand(part.shape, generator=generator), -1.0)
        best, frame = draw.max(1)
        xy = anchored.xy[b][:, :, order]
        at = xy.gather(1, frame[:, None, :, None].expand(-1, 1, -1, 2))[:, 0]
        samples.append((torch.cat([frame[..., None].float(), at], -1), best >= 0, xy, anchored.visible[b][..., order]))
    txy, valid, xy, visible = (torch.stack(x) for x in zip(*samples, strict=True))
    return TrackTask(txy, valid, Tracks(xy, visible, valid))
