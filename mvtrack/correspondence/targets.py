"""What the attention of a layer should point to: one type for targets, and how they are made from ground truth."""

from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int
from torch import Tensor

from mvtrack.camera import Camera, pixel_grid, project, unproject
from mvtrack.video_clip import anchor_frames, num_latent_frames

_DEPTH_TOLERANCE = 0.03  # relative z difference below which two views see the same surface


@dataclass(frozen=True)
class CorrespondenceTargets:
    """For Q query tokens, the key cell each should attend to in every (view, latent frame).

    query: flat token index over (V, f, h, w). label: cell index over (h, w). weight: 0 where nothing is asked.
    """

    query: Int[Tensor, "B Q"]
    label: Int[Tensor, "B Q V f"]
    weight: Float[Tensor, "B Q V f"]
    grid: tuple[int, int]  # (h, w) of the token grid that the indices belong to

    def to(self, device: torch.device) -> "CorrespondenceTargets":
        return replace(self, query=self.query.to(device), label=self.label.to(device), weight=self.weight.to(device))


def targets_from_depth(
    depth: Float[Tensor, "B V T H W"], camera: Camera, token_px: int, num_reference: int = 1
) -> CorrespondenceTargets:
    """Every token of the target views asks for its cell in the reference at the same latent frame.

    The point behind a token is the one at the pixel nearest below-right of its centre, at the latent frame's anchor.
    It is asked for where it projects into the reference and the reference's depth confirms it within 3 %.
    """
    batch, views, frames = depth.shape[:3]
    anchors = anchor_frames(num_latent_frames(frames))
    depth, camera = depth[:, :, anchors], camera[:, :, anchors]
    height, width = depth.shape[-2:]
    grid = (height // token_px, width // token_px)
    cells = grid[0] * grid[1]
    xy = pixel_grid((height, width), token_px).flatten(0, 1).floor() + 0.5
    row, column = xy[:, 1].long(), xy[:, 0].long()
    point = unproject(xy, depth[:, num_reference:, :, row, column], camera[:, num_reference:])

    label = torch.zeros(batch, views - num_reference, len(anchors), cells, views, len(anchors), dtype=torch.long)
    weight = torch.zeros(label.shape)
    for r in range(num_reference):
        reference = camera[:, r : r + 1]
        seen_xy, seen_z = project(point, reference)
        inside = (seen_xy >= 0).all(-1) & (seen_xy[..., 0] < width) & (seen_xy[..., 1] < height) & (seen_z > 0)
        pixel = torch.where(inside[..., None], seen_xy, 0.0).long()
        flat = depth[:, r, None].expand(-1, views - num_reference, -1, -1, -1).flatten(-2)
        surface = flat.gather(-1, pixel[..., 1] * width + pixel[..., 0])
        seen = inside & ((seen_z - surface).abs() < _DEPTH_TOLERANCE * surface)
        cell = (pixel[..., 1] // token_px) * grid[1] + pixel[..., 0] // token_px
        for f in range(len(anchors)):
            label[:, :, f, :, r, f] = cell[:, :, f]
            weight[:, :, f, :, r, f] = seen[:, :, f].float()
    first = num_reference * len(anchors) * cells
    query = torch.arange(first, views * len(anchors) * cells).expand(batch, -1)
    return CorrespondenceTargets(query, label.flatten(1, 3), weight.flatten(1, 3), grid)
