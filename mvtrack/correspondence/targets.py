"""What the attention of a layer should point to: one type for targets, whatever ground truth they come from."""

import logging
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from mvtrack.data.clip import TEMPORAL_STRIDE
from mvtrack.geometry.camera import Camera, pixel_grid, project, unproject
from tracking_head import Tracks

_DEPTH_TOLERANCE = 0.03  # relative z difference below which two views see the same surface


class CountedWarning:
    """Of data that are merely poor, every case is counted and few are logged.

    Logs the 1st, 2nd, 4th, 8th, ... batch in which something was wrong, with the running total.

    message: takes (cases in this batch, out of how many, cases so far) as %d.
    """

    def __init__(self, logger: logging.Logger, message: str) -> None:
        self.logger, self.message = logger, message
        self.cases = 0
        self.batches = 0

    def count(self, cases: int, total: int) -> None:
        if cases == 0:
            return
        self.cases += cases
        self.batches += 1
        if self.batches & (self.batches - 1) == 0:
            self.logger.warning(self.message, cases, total, self.cases)


_NOTHING_SHARED = CountedWarning(
    logging.getLogger(__name__), "%d of %d samples have no co-visible point: they teach no correspondence (%d so far)"
)


@dataclass(frozen=True)
class CorrespondenceTargets:
    """For Q query tokens, the key cell each should attend to in every (view, latent frame).

    query: flat token index over (V, f, h, w). label: cell index over (h, w). weight: 0 where nothing is asked.
    The query's own frame may carry a label too (itself); the loss and the probe leave it out unless told otherwise.
    distance: 3D distance to the labelled point, from point maps only. query_xy, label_xy: where the points lie exactly,
    raster pixels, from tracks only; elsewhere the cells' centres stand for them.

    Raises ValueError for shapes that do not fit each other and, on the CPU, for indices outside the grid.
    """

    query: Int[Tensor, "B Q"]
    label: Int[Tensor, "B Q V f"]
    weight: Float[Tensor, "B Q V f"]
    grid: tuple[int, int]  # (h, w) of the token grid that the indices belong to
    distance: Float[Tensor, "B Q V f"] | None = None
    query_xy: Float[Tensor, "B Q 2"] | None = None
    label_xy: Float[Tensor, "B Q V f 2"] | None = None

    def __post_init__(self) -> None:
        query, label, weight = tuple(self.query.shape), tuple(self.label.shape), tuple(self.weight.shape)
        if len(query) != 2 or len(label) != 4 or label[:2] != query or weight != label:
            raise ValueError(f"query, label, weight must be (B, Q), (B, Q, V, f) twice, got {query}, {label}, {weight}")
        if self.query.is_floating_point() or self.label.is_floating_point():
            raise ValueError(f"query and label must be integers, got {self.query.dtype} and {self.label.dtype}")
        if self.query.device.type != "cpu" or self.label.numel() == 0:
            return
        cells = self.grid[0] * self.grid[1]
        for name, index, count in (("query", self.query, label[2] * label[3] * cells), ("label", self.label, cells)):
            low, high = int(index.min()), int(index.max())
            if low < 0 or high >= count:
                raise ValueError(f"{name} must lie in [0, {count - 1}] for a grid of {self.grid}, got {low} .. {high}")

    def to(self, device: torch.device) -> "CorrespondenceTargets":
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        moved: dict[str, Any] = {name: x.to(device) for name, x in values.items() if isinstance(x, Tensor)}
        return replace(self, **moved)

    @property
    def own_frame(self) -> Int[Tensor, "B Q"]:
        """The key frame, view * f + frame, that each query token lies in."""
        return self.query // (self.grid[0] * self.grid[1])

    @staticmethod
    def concatenate(items: list["CorrespondenceTargets"]) -> "CorrespondenceTargets":
        """Targets of several samples as one batch; fewer queries are filled up with ones that ask for nothing."""
        if len({item.grid for item in items}) != 1:
            raise ValueError(f"targets of different token grids cannot be batched: {sorted({i.grid for i in items})}")
        longest = max(item.query.shape[1] for item in items)
        joined: dict[str, Any] = {}
        for field in fields(CorrespondenceTargets):
            parts = [getattr(item, field.name) for item in items]
            if isinstance(parts[0], Tensor):
                pads = [[0, 0] * (part.ndim - 2) + [0, longest - part.shape[1]] for part in parts]
                joined[field.name] = torch.cat([F.pad(x, pad) for x, pad in zip(parts, pads, strict=True)])
        return replace(items[0], **joined)


def latent_anchors(num_frames: int, frame_stride: int = TEMPORAL_STRIDE) -> Int[Tensor, "f"]:
    """The video frames at which ground truth of latent frames is read: 0, stride, 2 stride, ..., the last one.

    Raises ValueError for a number of frames that the stride does not reach.
    """
    if frame_stride < 1:
        raise ValueError(f"frame_stride must be at least 1, got {frame_stride}")
    if num_frames < 1 or (num_frames - 1) % frame_stride:
        raise ValueError(f"with frame_stride {frame_stride} there must be {frame_stride}n + 1 frames, got {num_frames}")
    return torch.arange(0, num_frames, frame_stride)


def token_grid(size: tuple[int, int], token_px: int) -> tuple[int, int]:
    """(h, w) of the tokens of an image of `size` (H, W). Raises ValueError when tokens do not tile it."""
    if size[0] % token_px or size[1] % token_px:
        raise ValueError(f"images of {size[0]}x{size[1]} are not divisible by the token size {token_px}")
    return size[0] // token_px, size[1] // token_px


def draw(count: int, wanted: int | None, generator: torch.Generator) -> Int[Tensor, "n"]:
    """Indices of at most `wanted` of `count` things, without repetition, ascending; None: all of them."""
    if wanted is None or wanted >= count:
        return torch.arange(count)
    return torch.randperm(count, generator=generator)[:wanted].sort().values


def warn_if_nothing_shared(targets: CorrespondenceTargets) -> CorrespondenceTargets:
    """Count the samples that ask for nothing but the queries' own frames."""
    views, frames = targets.label.shape[2:]
    key = torch.arange(views * frames, device=targets.label.device).view(views, frames)
    elsewhere = (targets.weight > 0) & (key != targets.own_frame[..., None, None])
    _NOTHING_SHARED.count(int((~elsewhere.flatten(1).any(1)).sum()), len(elsewhere))
    return targets


def targets_from_tracks(
    tracks: Tracks, size: tuple[int, int], token_px: int, num_queries: int | None = 1024, seed: int = 0,
    frame_stride: int = TEMPORAL_STRIDE,
) -> CorrespondenceTargets:  # fmt: skip
    """Tokens of visible track points, all views and frames, ask for the point wherever it is visible (MVTrack4Gen B.5).

    tracks: (B, V, T, N) in pixels of images of `size` (H, W), read at each latent frame's anchor. num_queries: drawn
    per sample from `seed` (None: every visible point). frame_stride: video frames from one latent frame to the next,
    T = stride n + 1; 1 where every frame has tokens. A sample with fewer visible points is filled up with queries of
    weight 0; one without any is counted in a warning. Raises ValueError for tracks that are not in pixels.
    """
    if tracks.xy.ndim != 5:
        raise ValueError(f"tracks must be batched (B, V, T, N, 2), got {tuple(tracks.xy.shape)}")
    grid = token_grid(size, token_px)
    anchors = latent_anchors(tracks.xy.shape[2], frame_stride)
    xy = tracks.xy[:, :, anchors].float()
    seen = tracks.visible[:, :, anchors] & tracks.valid[:, :, None] & _inside(xy, size)
    _refuse_normalised(xy[seen], size)
    xy = torch.where(seen[..., None], xy, 0.0)
    index = (xy / token_px).long()
    cell = index[..., 1] * grid[1] + index[..., 0]  # (B, V, f, N)
    samples = []
    for b in range(len(xy)):
        generator = torch.Generator().manual_seed(seed + b)
        view, frame, point = seen[b].nonzero(as_tuple=True)
        chosen = draw(len(point), num_queries, generator)
        view, frame, point = view[chosen], frame[chosen], point[chosen]
        targets = CorrespondenceTargets(
            query=((view * len(anchors) + frame) * grid[0] * grid[1] + cell[b, view, frame, point])[None],
            label=cell[b, :, :, point].movedim(-1, 0)[None],
            weight=seen[b, :, :, point].movedim(-1, 0).float()[None],
            grid=grid,
            query_xy=xy[b, view, frame, point][None],
            label_xy=xy[b, :, :, point].movedim(2, 0)[None],
        )
        samples.append(targets)
    return warn_if_nothing_shared(CorrespondenceTargets.concatenate(samples))


def _refuse_normalised(xy: Float[Tensor, "n 2"], size: tuple[int, int]) -> None:
    """Raise ValueError where all points lie in the first pixel, as positions in [0, 1] or [-1, 1] do."""
    if len(xy) > 1 and xy.max() <= 1 and min(size) > 2:
        low, high = ([round(v, 3) for v in x.tolist()] for x in (xy.amin(0), xy.amax(0)))
        raise ValueError(
            f"tracks must be in pixels of images of {size[0]}x{size[1]}, all visible points lie in {low} .. {high}: "
            f"multiply x by {size[1]} and y by {size[0]}"
        )


def _inside(xy: Float[Tensor, "*n 2"], size: tuple[int, int]) -> Bool[Tensor, "*n"]:
    """Whether raster coordinates fall into an image; those that are not finite do not."""
    return (xy >= 0).all(-1) & (xy[..., 0] < size[1]) & (xy[..., 1] < size[0])


def targets_from_depth(
    depth: Float[Tensor, "B V T H W"], camera: Camera, token_px: int, num_reference: int = 1,
    frame_stride: int = TEMPORAL_STRIDE,
) -> CorrespondenceTargets:  # fmt: skip
    """Every token of the target views asks for its cell in the reference at the same latent frame.

    The point behind a token is the one at the pixel nearest below-right of its centre, at the latent frame's anchor.
    It is asked for where it projects into the reference and the reference's depth confirms it within 3 %. Depth that is
    not finite or not positive confirms nothing; a sample without any co-visible token is counted in a warning.
    """
    batch, views, frames = depth.shape[:3]
    anchors = latent_anchors(frames, frame_stride)
    depth, camera = depth[:, :, anchors], camera[:, :, anchors]
    height, width = depth.shape[-2:]
    grid = token_grid((height, width), token_px)
    cells = grid[0] * grid[1]
    xy = pixel_grid((height, width), token_px).flatten(0, 1).floor() + 0.5
    row, column = xy[:, 1].long(), xy[:, 0].long()
    own_z = depth[:, num_reference:, :, row, column]
    point = unproject(xy, own_z, camera[:, num_reference:])

    label = torch.zeros(batch, views - num_reference, len(anchors), cells, views, len(anchors), dtype=torch.long)
    weight = torch.zeros(label.shape)
    for r in range(num_reference):
        reference = camera[:, r : r + 1]
        seen_xy, seen_z = project(point, reference)
        inside = _inside(seen_xy, (height, width)) & (seen_z > 0) & (own_z > 0)
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
    return warn_if_nothing_shared(CorrespondenceTargets(query, label.flatten(1, 3), weight.flatten(1, 3), grid))
