"""What a target picture takes from the source: its geometry, and the source's pictures seen from there.

Pure functions of inverse depth and cameras, for one target frame at a time.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from mvtrack.geometry.camera import Camera
from mvtrack.geometry.inverse_depth import (
    correspondence,
    filled_from_behind,
    inside,
    median_of_neighbours,
    sample,
    splat_inverse_depth,
)

_SLACK, _FLOOR = 0.05, 0.015  # by which inverse depths of one surface may differ: relative, and absolute
SAME_PLACE = 1e-4  # distance of two cameras, in distances of the subject, below which depth has no effect
_CONTOUR = 0.1  # step of inverse depth, relative to the nearer side, that is a contour
_COLOUR_SIGMA = 0.12  # of colours in [-1, 1] that belong to one surface
_STEADY = 0.15  # relative change of inverse depth between frames that counts as noise


@dataclass(frozen=True)
class SourceMoment:
    """The source at one moment. inverse_depth: 1 / z in 1 / the camera's unit. confidence: of it, in [0, 1].
    camera: without leading shape, of the maps' size."""

    inverse_depth: Float[Tensor, "H W"]
    confidence: Float[Tensor, "H W"]
    camera: Camera


@dataclass(frozen=True)
class TargetGeometry:
    """What a target frame shows. known: where the source at that moment shows a surface; elsewhere it comes from other
    moments, or from what lies around."""

    inverse_depth: Float[Tensor, "h w"]
    known: Bool[Tensor, "h w"]

    def at(self, size: tuple[int, int]) -> "TargetGeometry":
        """At another size, each pixel the nearest one: surfaces do not blend."""
        rows, columns = (
            ((torch.arange(n) + 0.5) * (old / n)).long() for n, old in zip(size, self.known.shape, strict=True)
        )
        return TargetGeometry(self.inverse_depth[rows][:, columns], self.known[rows][:, columns])


def target_geometry(now: SourceMoment, others: Sequence[SourceMoment], target: Camera) -> TargetGeometry:
    """Geometry of the target's frame from the source's at that moment; holes take the farthest of other moments."""
    surface, known = splat_inverse_depth(now.inverse_depth, now.camera, target)
    surface = median_of_neighbours(surface)
    known = surface > 0
    behind = torch.full_like(surface, torch.inf)
    for other in others:
        extra, hit = splat_inverse_depth(other.inverse_depth, other.camera, target, ~known)
        behind = torch.where(hit & (extra < behind), extra, behind)
    usable = ~known & behind.isfinite()
    surface = torch.where(usable, behind, surface)
    return TargetGeometry(filled_from_behind(surface, known | usable), known)


def lookup(
    geometry: TargetGeometry, target: Camera, moment: SourceMoment, both_sides: bool = False
) -> tuple[Float[Tensor, "h w 2"], Float[Tensor, "h w"]]:
    """Where a target's pixels lie in the source at a moment (raster pixels of that camera), and how likely they are
    seen there, in [0, 1]. both_sides: the surface seen there must be the very one, not only no nearer."""
    xy, inverse = correspondence(geometry.inverse_depth[None], target, moment.camera)
    xy, inverse = xy[0], inverse[0]
    own = moment.inverse_depth[None, None]
    padded = F.pad(own, [1] * 4, mode="replicate")
    front = F.max_pool2d(padded, 3, 1)  # a pixel beside something nearer shows some of that
    there, nearest = sample(torch.cat([own, front], 1), xy[None], moment.camera.size)[0]
    slack = _SLACK * inverse + _FLOOR
    gap = torch.maximum(nearest - inverse, inverse - there) if both_sides else nearest - inverse
    seen = torch.sigmoid(4 * (1 - gap / slack)).clamp_max(0.98) / 0.98
    return xy, seen * (inside(xy, moment.camera.size) & (inverse > 0))


def stands_still(first: Camera, second: Camera) -> bool:
    """Whether two cameras (no leading shape, lengths in distances of the subject) stand at one place."""
    return float((first.c2w[:3, 3] - second.c2w[:3, 3]).norm()) < SAME_PLACE


def crisp_enlarged(inverse_depth: Float[Tensor, "h w"], size: tuple[int, int]) -> Float[np.ndarray, "H W"]:
    """Enlarged without slopes between surfaces: at a contour each pixel takes the nearer or the farther side."""
    maps, box = inverse_depth.contiguous().numpy(), np.ones((3, 3), np.uint8)
    near, far = (change(maps, box, borderType=cv2.BORDER_REPLICATE) for change in (cv2.dilate, cv2.erode))
    mean, near, far = (cv2.resize(m, size[::-1], interpolation=cv2.INTER_LINEAR) for m in (maps, near, far))
    contour = far < (1 - _CONTOUR) * near
    np.copyto(mean, np.where(2 * mean > near + far, near, far), where=contour)
    return mean


def guided_enlarged(
    maps: Float[Tensor, "C h w"], guide: Float[Tensor, "3 h w"], picture: Float[Tensor, "3 H W"]
) -> Float[Tensor, "C H W"]:
    """Enlarged along the picture's contours: a mean of 3x3 neighbours, weighted by how alike their colours are (joint
    bilateral upsampling, Kopf et al. 2007). guide: the picture at the maps' size."""
    size = picture.shape[-2:]
    total, sum_of_weights = 0.0, 0.0
    stacked = F.pad(torch.cat([maps, guide])[None], [1] * 4, mode="replicate")
    height, width = maps.shape[-2:]
    for dy in range(3):
        for dx in range(3):
            moved = F.interpolate(stacked[..., dy : dy + height, dx : dx + width], size, mode="bilinear")[0]
            value, colour = moved[: len(maps)], moved[len(maps) :]
            spatial = 1.0 if dx == dy == 1 else 0.4
            weight = spatial * torch.exp(-(colour - picture).square().sum(0) / (2 * _COLOUR_SIGMA**2)) + 1e-4 * spatial
            total, sum_of_weights = total + weight * value, sum_of_weights + weight
    return total / sum_of_weights


def steadied(
    maps: Sequence[Float[Tensor, "2 h w"]], pictures: Sequence[Float[Tensor, "3 h w"]], camera: Camera, index: int
) -> Float[Tensor, "2 h w"]:
    """Inverse depth and confidence of one moment, averaged with its neighbours' where they show the same surface.

    camera: (n,) of the maps' size. index: which of the n moments.
    """
    own, picture = maps[index], pictures[index]
    total, count = own.clone(), torch.ones_like(own[0])
    for other in range(len(maps)):
        if other == index:
            continue
        xy, inverse = correspondence(own[None, 0], camera[index], camera[other])
        there = sample(torch.cat([maps[other], pictures[other]])[None], xy)[0]
        carried = there[0] * own[0] / inverse[0].clamp_min(1e-6)
        alike = torch.exp(-(there[2:] - picture).square().sum(0) / (2 * _COLOUR_SIGMA**2))
        near = torch.exp(-((carried - own[0]) / (_STEADY * own[0] + _FLOOR)).square())
        weight = alike * near * inside(xy[0], camera.size)
        total, count = total + weight * torch.stack([carried, there[1]]), count + weight
    return total / count
