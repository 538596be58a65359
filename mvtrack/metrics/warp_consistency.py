"""Do two pictures show one scene? The second is carried into the first by geometry and compared there.

The scheme is MEt3R's (Asim et al. 2025): pair geometry, features, warp, distance. Each part may be exchanged, and the
score is called `warp_consistency[geometry,features]` unless all are the original's. Lower is better.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Bool, Float
from torch import Tensor

from mvtrack.geometry.camera import Camera, pixel_grid, unproject
from mvtrack.geometry.splat import splat_points

Distance = Literal["l1", "cosine"]
DISTANCES: tuple[Distance, ...] = get_args(Distance)
Pairing = Literal["same_time", "consecutive"]
PAIRINGS: tuple[Pairing, ...] = get_args(Pairing)
Features = Callable[[Float[Tensor, "T 3 H W"]], Float[Tensor, "T C H W"]]
HIDDEN = 0.05  # relative depth by which a point must lie behind the first picture's surface to be hidden there
_EDGE_PX = 1.5  # of the second picture's points: pixels at a depth edge belong to two surfaces


@dataclass(frozen=True)
class PairGeometry:
    """The surfaces that two pictures show, both in the first camera's axes. NaN where a pixel has no known surface.

    camera: the first one, at the origin, for pictures of the first one's size.
    """

    first: Float[Tensor, "H W 3"]
    second: Float[Tensor, "h w 3"]
    camera: Camera

    @staticmethod
    def from_depth(
        first_depth: Float[Tensor, "H W"], second_depth: Float[Tensor, "h w"], first: Camera, second: Camera
    ) -> "PairGeometry":
        """From z-depth maps and cameras without leading shape; depth that is not finite or positive is unknown."""
        origin = replace(first, c2w=torch.eye(4).to(first.c2w))
        seen = second.relative_to(first.c2w)
        return PairGeometry(_points(first_depth, origin), _points(second_depth, seen), origin)

    def resized(self, size: tuple[int, int]) -> "PairGeometry":
        """The same surfaces at another resolution, (h, w) of both pictures: the nearest pixel's point."""
        if size == tuple(self.first.shape[:2]) == tuple(self.second.shape[:2]):
            return self
        maps = (rearrange(points, "h w xyz -> 1 xyz h w") for points in (self.first, self.second))
        small = (F.interpolate(points, size, mode="nearest-exact") for points in maps)
        first, second = (rearrange(points, "1 xyz h w -> h w xyz") for points in small)
        return PairGeometry(first, second, self.camera.resized(size))


@dataclass(frozen=True)
class PairComparison:
    """distance of each pixel of the first picture from the second carried onto it; `seen` where both are known.

    carried: the second's features in the first picture.
    """

    distance: Float[Tensor, "H W"]
    seen: Bool[Tensor, "H W"]
    carried: Float[Tensor, "C H W"]

    def score(self, mask: Bool[Tensor, "H W"] | None = None) -> float:
        """Mean distance over what is seen, or over that part of it which is under the mask; NaN where none is."""
        counted = self.seen if mask is None else self.seen & mask
        return float(self.distance[counted].double().mean()) if counted.any() else math.nan


def compare_pair(
    first: Float[Tensor, "C H W"], second: Float[Tensor, "C h w"], geometry: PairGeometry, distance: Distance = "l1",
    hidden: float | None = HIDDEN,
) -> PairComparison:  # fmt: skip
    """Carry the second picture's features into the first and measure how far they are from its own.

    distance: `l1`, the mean absolute difference over channels, or `cosine`, one minus the cosine. hidden: points of the
    second that lie deeper than the first's surface by this share are left out; None keeps them, as MEt3R does.
    """
    if distance not in DISTANCES:
        raise ValueError(f"unknown distance {distance!r}; known: {', '.join(DISTANCES)}")
    if geometry.first.shape[:2] != first.shape[1:] or geometry.second.shape[:2] != second.shape[1:]:
        raise ValueError(
            f"features of {tuple(first.shape[1:])} and {tuple(second.shape[1:])} do not fit geometry of "
            f"{tuple(geometry.first.shape[:2])} and {tuple(geometry.second.shape[:2])}"
        )
    usable = geometry.second.isfinite().all(-1) & ~at_depth_edge(geometry.second[..., 2])
    carried, z = splat_points(second[:, usable], geometry.second[usable], geometry.camera)
    surface = geometry.first[..., 2]
    seen = z.isfinite() & geometry.first.isfinite().all(-1)
    if hidden is not None:
        seen = seen & (z <= surface * (1 + hidden))
    if distance == "l1":
        apart = (first - carried).abs().mean(0)
    else:
        apart = 1 - F.cosine_similarity(first, carried, dim=0, eps=1e-8)
    return PairComparison(apart, seen, carried)


def carried_mask(mask: Bool[Tensor, "h w"], geometry: PairGeometry) -> Bool[Tensor, "H W"]:
    """A mask of the second picture as it lies in the first one; pixels that are half covered count."""
    usable = geometry.second.isfinite().all(-1)
    carried, z = splat_points(mask[usable][None].to(geometry.second.dtype), geometry.second[usable], geometry.camera)
    return z.isfinite() & (carried[0] >= 0.5)


def at_depth_edge(depth: Float[Tensor, "H W"]) -> Bool[Tensor, "H W"]:
    """Pixels beside a jump in depth: their colour is mixed from two surfaces, and would be carried by one of them."""
    near = F.pad(depth[None, None], (1, 1, 1, 1), mode="replicate")
    high, low = F.max_pool2d(near, 3, 1)[0, 0], -F.max_pool2d(-near, 3, 1)[0, 0]
    return high > low * (1 + HIDDEN * _EDGE_PX)


def frame_pairs(num_frames: int, pairing: Pairing) -> list[tuple[int, int]]:
    """Which frame of the first video is compared with which of the second: the same one, or each with the next
    (then both videos are the generated one, as MEt3R was published)."""
    if pairing not in PAIRINGS:
        raise ValueError(f"unknown pairing {pairing!r}; known: {', '.join(PAIRINGS)}")
    if pairing == "same_time":
        return [(t, t) for t in range(num_frames)]
    return [(t, t + 1) for t in range(num_frames - 1)]


def colours(video: Float[Tensor, "T 3 H W"]) -> Float[Tensor, "T 3 H W"]:
    """The plainest features: RGB in [0, 1]."""
    return (video.clamp(-1, 1) + 1) / 2


def _points(depth: Float[Tensor, "H W"], camera: Camera) -> Float[Tensor, "H W 3"]:
    if tuple(depth.shape) != tuple(camera.size):
        raise ValueError(f"depth is {tuple(depth.shape)}, its camera is for pictures of {tuple(camera.size)}")
    grid = pixel_grid(camera.size, device=depth.device).to(depth)
    points = unproject(grid.flatten(0, 1), depth.flatten(), camera.to(dtype=depth.dtype)).unflatten(0, camera.size)
    return torch.where((depth.isfinite() & (depth > 0))[..., None], points, torch.nan)
