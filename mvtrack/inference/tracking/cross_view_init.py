"""Where points of one view begin in the others: found by cross-view attention, or projected with known depth.

Queries exist in one view only (MVTrack4Gen, Figure 1); the head needs a start in every view in which it is to track.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from mvtrack.correspondence.matching import match_frame, sample_around
from mvtrack.geometry.camera import Camera, project, unproject
from mvtrack.geometry.splat import splat_depth
from tracking_head import Features

CYCLE_TOKENS = 0.75  # a match counts where matching back ends within so many tokens of the point
_BEHIND = 0.05  # relative depth by which a point may lie behind what is seen at its pixel


@dataclass(frozen=True)
class Starts:
    """Latent frame, x, y (raster pixels) of N points in V views, and whether a start was found."""

    txy: Float[Tensor, "V N 3"]
    found: Bool[Tensor, "V N"]


def no_starts(views: int, points: int) -> Starts:
    """Nothing found anywhere."""
    return Starts(torch.zeros(views, points, 3), torch.zeros(views, points, dtype=torch.bool))


def starts_by_attention(
    features: Features, txy: Float[Tensor, "N 3"], source: int = 0, cycle_tokens: float = CYCLE_TOKENS
) -> Starts:
    """Search all frames of every other view for points at (frame, x, y) of view `source`.

    Of the frames where matching back ends within cycle_tokens of the point, the one nearest in time is taken: things
    look alike at one moment, and lie on their epipolar lines. The source's own entries are the points themselves.
    """
    views, frames = features.q.shape[:2]
    starts = no_starts(views, len(txy))
    starts.txy[source], starts.found[source] = txy.float(), True
    for i in txy[:, 0].long().unique().tolist():
        mine = (txy[:, 0] == i).nonzero()[:, 0]
        xy = txy[mine, 1:].float()
        query = sample_around(features.q[source, i], xy, features.token_px)
        for v in (v for v in range(views) if v != source):
            found = best_match(features, v, query, features.k[source, i], xy, cycle_tokens, moment=i)
            starts.txy[v, mine], starts.found[v, mine] = found
    return starts


def best_match(
    features: Features, view: int, query: Float[Tensor, "n 4 heads d"], home_keys: Float[Tensor, "h w heads d"],
    home_xy: Float[Tensor, "n 2"], cycle_tokens: float = CYCLE_TOKENS, moment: int | None = None,
) -> tuple[Float[Tensor, "n 3"], Bool[Tensor, "n"]]:  # fmt: skip
    """The best of the matches in all frames of a view that pass the cycle check, and whether there is one.

    query, home_keys, home_xy: see `match_frame`; they may come from the features of another clip. Best is the most
    confident one of those nearest to the latent frame `moment`; None: of all.
    """
    each = [
        match_frame(query, home_keys, home_xy, features.q[view, j], features.k[view, j], features.token_px)
        for j in range(features.q.shape[1])
    ]
    xy, confidence, cycle_px = (torch.stack(x) for x in zip(*each, strict=True))  # (f, n, ...)
    reliable = (cycle_px <= cycle_tokens * features.token_px) & inside(xy, features.size)
    away = torch.zeros(len(xy)) if moment is None else (torch.arange(len(xy)) - moment).abs().float()
    nearer = 2 * (away.max() - away)  # confidence is at most 1
    score, frame = torch.where(reliable, confidence + nearer[:, None], -1.0).max(0)
    best = xy[frame, torch.arange(len(home_xy))]
    return torch.cat([frame[:, None].to(best), best], -1), score >= 0


def starts_by_depth(
    txy: Float[Tensor, "N 3"], depth: Float[Tensor, "f H W"], camera: Camera, source: int = 0,
    other_depth: Float[Tensor, "V f H W"] | None = None,
) -> Starts:  # fmt: skip
    """Project points of view `source` into every other view at the same frame.

    depth: z-depth of the source at each latent frame, in the cameras' unit; where it is not positive and finite,
    nothing is found. camera: (V, f) for images of the same size. A start counts where it lies in the picture and
    nothing stands before it: by the other views' own depth where given, else by the source's depth carried over.
    """
    views = camera.shape[0]
    starts = no_starts(views, len(txy))
    starts.txy[source], starts.found[source] = txy.float(), True
    for i in txy[:, 0].long().unique().tolist():
        mine = (txy[:, 0] == i).nonzero()[:, 0]
        xy = txy[mine, 1:].float()
        own = _at_pixel(depth[i], xy)
        known = own.isfinite() & (own > 0)
        world = unproject(xy, torch.where(known, own, 1.0), camera[source, i])
        for v in (v for v in range(views) if v != source):
            seen_xy, z = project(world, camera[v, i])
            seen = known & (z > 0) & inside(seen_xy, camera.size)
            if other_depth is not None:
                front = other_depth[v, i]
            else:
                front = splat_depth(depth[i], camera[source, i], camera[v, i]).nan_to_num(torch.inf)
            seen &= z <= _at_pixel(front, torch.where(seen[:, None], seen_xy, 0.0)) * (1 + _BEHIND)
            starts.txy[v, mine] = torch.cat([txy[mine, :1].float(), seen_xy.float()], -1)
            starts.found[v, mine] = seen
    return starts


def _at_pixel(image: Float[Tensor, "H W"], xy: Float[Tensor, "n 2"]) -> Float[Tensor, "n"]:
    """Values of the pixels that points lie in; depths do not blend."""
    return image[xy[:, 1].long(), xy[:, 0].long()]


def inside(xy: Float[Tensor, "*any 2"], size: tuple[int, int]) -> Bool[Tensor, "*any"]:
    """Whether positions lie in an image of size (H, W)."""
    return (xy >= 0).all(-1) & (xy[..., 0] < size[1]) & (xy[..., 1] < size[0])
