"""Targets from 3D: tokens of two views correspond where their points are each other's nearest (CAMEO §3.3)."""

import logging
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from mvtrack.config.losses import PointMatchConfig
from mvtrack.correspondence.targets import (
    CorrespondenceTargets,
    CountedWarning,
    draw,
    latent_anchors,
    warn_if_nothing_shared,
)
from mvtrack.data.clip import TEMPORAL_STRIDE
from mvtrack.geometry.camera import Camera, pixel_grid, unproject

_PAIRS = 1 << 22  # distances that exist at a time
_UNUSABLE = CountedWarning(
    logging.getLogger(__name__), "%d of %d points are not finite or lie behind their camera: left out (%d so far)"
)


def points_from_depth(depth: Float[Tensor, "B V T H W"], camera: Camera) -> Float[Tensor, "B V T 3 H W"]:
    """World coordinates of every pixel's surface point, in the camera's unit; NaN where depth is not positive."""
    if tuple(camera.shape) != tuple(depth.shape[:3]) or camera.size != tuple(depth.shape[-2:]):
        raise ValueError(
            f"depth {tuple(depth.shape)} needs cameras of shape {tuple(depth.shape[:3])} and size "
            f"{tuple(depth.shape[-2:])}, got {tuple(camera.shape)} and {camera.size}"
        )
    flat = torch.where(depth.isfinite() & (depth > 0), depth, torch.nan).flatten(-2)
    points = unproject(pixel_grid(camera.size, device=depth.device).flatten(0, 1), flat, camera)
    return points.mT.unflatten(-1, camera.size)


@dataclass(frozen=True)
class PointMaps:
    """points: world coordinates of pixels; those that are not finite are left out. confidence: of an estimator, for
    `PointMatchConfig.min_confidence`. camera: (B, V, T), leaves out points behind their own camera.
    """

    points: Float[Tensor, "B V T 3 H W"]
    confidence: Float[Tensor, "B V T H W"] | None = None
    camera: Camera | None = None

    def __post_init__(self) -> None:
        if self.points.ndim != 6 or self.points.shape[3] != 3:
            raise ValueError(f"points must be (B, V, T, 3, H, W), got {tuple(self.points.shape)}")

    def usable(self, min_confidence: float | None) -> Bool[Tensor, "B V T H W"]:
        """Whether a pixel's point counts. Raises ValueError for a threshold without a map (or the reverse)."""
        if (min_confidence is None) != (self.confidence is None):
            raise ValueError("min_confidence and a confidence map go together: give both or neither")
        usable = self.points.isfinite().all(3)
        if self.camera is not None:
            usable = usable & (_own_depth(self.points, self.camera) > 0)
        _UNUSABLE.count(int((~usable).sum()), usable.numel())
        if self.confidence is None or min_confidence is None:
            return usable
        return usable & (self.confidence >= min_confidence)


def targets_from_points(
    maps: PointMaps, grid: tuple[int, int], config: PointMatchConfig | None = None, num_queries: int | None = None,
    seed: int = 0, frame_stride: int = TEMPORAL_STRIDE,
) -> CorrespondenceTargets:  # fmt: skip
    """Every token asks, in every other (view, frame), for the token whose 3D point is nearest to its own.

    maps: T = stride n + 1 frames, read at the latent anchors (T = 1: one photograph a view). grid: (h, w) of the
    tokens. num_queries: how many tokens are drawn per sample from `seed` among those that have a point; None: every
    token. frame_stride: see `targets_from_tracks`. Points that are left out are counted in a warning, as are samples in
    which nothing matches. Moving things match themselves only at the same time: `pairs: same_time`.

    Raises ValueError for shapes that do not fit.
    """
    config, points = config or PointMatchConfig(), maps.points
    anchors, usable = latent_anchors(points.shape[2], frame_stride), maps.usable(config.min_confidence)
    place, valid = token_points(points[:, :, anchors], usable[:, :, anchors], grid, config.resize)
    samples = [
        _match(p, v, grid, config, num_queries, seed + b) for b, (p, v) in enumerate(zip(place, valid, strict=True))
    ]
    return warn_if_nothing_shared(CorrespondenceTargets.concatenate(samples))


def token_points(
    points: Float[Tensor, "B V f 3 H W"],
    usable: Bool[Tensor, "B V f H W"],
    grid: tuple[int, int],
    resize: str = "bilinear",
) -> tuple[Float[Tensor, "B V f C 3"], Bool[Tensor, "B V f C"]]:
    """One point a token, and whether it has one: every pixel that it is interpolated from must be usable."""
    lead = points.shape[:3]
    kept = torch.where(usable[:, :, :, None], points, 0.0).flatten(0, 2)
    mode = {"mode": "bilinear", "align_corners": False} if resize == "bilinear" else {"mode": "nearest-exact"}
    place = F.interpolate(kept, grid, **mode).flatten(-2).mT
    share = F.interpolate(usable.flatten(0, 2)[:, None].to(points.dtype), grid, **mode).flatten(1)
    return place.unflatten(0, lead), (share > 1 - 1e-4).unflatten(0, lead)


def _own_depth(points: Float[Tensor, "B V T 3 H W"], camera: Camera) -> Float[Tensor, "B V T H W"]:
    if tuple(camera.shape) != tuple(points.shape[:3]):
        raise ValueError(f"camera must have leading shape {tuple(points.shape[:3])}, got {tuple(camera.shape)}")
    shift = points - camera.c2w[..., :3, 3, None, None]
    return (shift * camera.c2w[..., :3, 2, None, None]).sum(3)


def _match(
    place: Float[Tensor, "V f C 3"], valid: Bool[Tensor, "V f C"], grid: tuple[int, int], config: PointMatchConfig,
    num_queries: int | None, seed: int,
) -> CorrespondenceTargets:  # fmt: skip
    """Targets of one sample, batch axis 1."""
    views, frames, cells = valid.shape
    place, valid = place.flatten(0, 1), valid.flatten(0, 1)  # (S, C, .), S = V f key frames
    candidates = torch.arange(len(valid) * cells) if num_queries is None else valid.flatten().nonzero()[:, 0]
    query = candidates[draw(len(candidates), num_queries, torch.Generator().manual_seed(seed))]
    own, cell = query // cells, query % cells
    spacing = None if config.max_spacings is None else [_spacing(p, v, grid) for p, v in zip(place, valid, strict=True)]
    label = torch.zeros(len(query), len(valid), dtype=torch.long)
    distance = torch.full(label.shape, torch.inf, dtype=place.dtype)
    weight = torch.zeros(label.shape)
    for i in own.unique().tolist():
        rows = (own == i).nonzero()[:, 0]
        start, has_point = cell[rows], valid[i, cell[rows]]
        for j in range(len(valid)):
            if i == j:
                match, gap, good = start, torch.zeros(len(rows), dtype=place.dtype), has_point
            elif config.pairs == "same_time" and i % frames != j % frames:
                continue
            else:
                match, gap = nearest_points(place[i, start], place[j], valid[j])
                good = has_point & gap.isfinite()
                if config.cycle_cells is not None:
                    back, _ = nearest_points(place[j, match], place[i], valid[i])
                    good = good & (_cells_apart(back, start, grid) < config.cycle_cells)
                if config.max_distance is not None:
                    good = good & (gap <= config.max_distance)
                if spacing is not None and config.max_spacings is not None:
                    good = good & (gap <= config.max_spacings * torch.maximum(spacing[i][start], spacing[j][match]))
            label[rows, j], weight[rows, j] = match, good.float()
            distance[rows, j] = torch.where(has_point, gap, torch.inf)
    label, weight, distance = (x.unflatten(1, (views, frames))[None] for x in (label, weight, distance))
    return CorrespondenceTargets(query[None], label, weight, grid, distance)


def nearest_points(
    queries: Float[Tensor, "n 3"], keys: Float[Tensor, "m 3"], valid: Bool[Tensor, "m"]
) -> tuple[Int[Tensor, "n"], Float[Tensor, "n"]]:
    """Index of the nearest valid key (the first of equals) and its distance; 0 and inf where there is none.

    Distances come from differences, in chunks of bounded memory: |a|^2 + |b|^2 - 2ab would lose the small ones.
    """
    chunk = max(1, _PAIRS // max(1, len(keys)))
    nearest, gaps = [], []
    for part in queries.split(chunk):
        between = torch.cdist(part, keys, compute_mode="donot_use_mm_for_euclid_dist").masked_fill_(~valid, torch.inf)
        gap, index = between.min(1)
        nearest.append(index)
        gaps.append(gap)
    return torch.cat(nearest), torch.cat(gaps)


def _cells_apart(a: Int[Tensor, "n"], b: Int[Tensor, "n"], grid: tuple[int, int]) -> Float[Tensor, "n"]:
    return torch.hypot((a // grid[1] - b // grid[1]).float(), (a % grid[1] - b % grid[1]).float())


def _spacing(place: Float[Tensor, "C 3"], valid: Bool[Tensor, "C"], grid: tuple[int, int]) -> Float[Tensor, "C"]:
    """Distance of each token's point to its nearest grid neighbour's: the surface that a token covers; 0 alone."""
    point = torch.where(valid[:, None], place, torch.inf).unflatten(0, grid)
    least = torch.full(grid, torch.inf, dtype=place.dtype)
    for dim, pads in ((0, [(0, 0, 1, 0), (0, 0, 0, 1)]), (1, [(1, 0, 0, 0), (0, 1, 0, 0)])):
        gap = point.diff(dim=dim).norm(dim=-1).nan_to_num(torch.inf)  # inf - inf between two missing points
        for pad in pads:
            least = torch.minimum(least, F.pad(gap, pad, value=torch.inf))
    return torch.where(least.isfinite(), least, 0.0).flatten()
