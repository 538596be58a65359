"""Full-size 8-bit frames warped to a target and added up with weights: in strips that stay in the processor's cache."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from mvtrack.geometry.camera import Camera
from mvtrack.geometry.inverse_depth import plane_homography
from mvtrack.inference.full_resolution.region import resized

_STRIP_PIXELS = 1 << 16  # of a picture that are worked on at once
_FEATHER_PX = 3.0  # beyond a picture's border, over which its repeated edge gives way
_NOTHING = 1e-3  # weight below which a picture is not looked up
_SHRINKS = 1.3  # factor from which on a warp would skip pixels
_BEHIND = 1e-4  # smallest ratio of depths at which a point counts as in front of the other camera
_OUTSIDE = -8.0  # raster coordinate of what lies outside
_FARTHEST = 32000.0  # largest coordinate that can be remapped

Plane = Float[np.ndarray, "H W"]


@dataclass(frozen=True)
class Layer:
    """A frame of the source and how much each of the target's pixels takes of it. camera: of the frame's size."""

    weight: Plane
    frame: UInt8[Tensor, "3 h w"]
    camera: Camera


def add_up(
    layers: Sequence[Layer], base: Float[np.ndarray, "3 H W"], inverse_depth: Plane | float, target: Camera
) -> UInt8[Tensor, "3 H W"]:
    """Layers seen by the target (no leading shape) at its inverse depth, times their weights, on top of a base, which
    is in 8-bit units and already weighted."""
    height, width = target.size
    out = np.empty((height, width, 3), np.uint8)
    shrunk = [_shrunk(layer, target) for layer in layers]
    maps = [_Map(target, camera) for _, camera in shrunk]
    for rows in strips(target.size):
        total = base[:, rows].copy()
        for layer, (picture, _), to_source in zip(layers, shrunk, maps, strict=True):
            used = np.flatnonzero(layer.weight[rows].max(0) > _NOTHING)
            if used.size:
                columns = slice(used[0], used[-1] + 1)
                depth = inverse_depth if isinstance(inverse_depth, float) else inverse_depth[rows, columns]
                seen = cv2.split(remapped(picture, *to_source.at(rows, columns, depth)))
                for channel, values in zip(total, seen, strict=True):
                    channel[:, columns] += layer.weight[rows, columns] * values
        cv2.merge([cv2.convertScaleAbs(np.maximum(channel, 0, out=channel)) for channel in total], out[rows])
    return torch.from_numpy(out).movedim(-1, 0)


class _Map:
    """Where the pixels of a target lie in another view."""

    def __init__(self, target: Camera, other: Camera) -> None:
        turn, shift = plane_homography(target, other)
        self.turn, self.shift = turn.numpy(), shift.numpy()
        self.x = np.arange(target.size[1], dtype=np.float32) + np.float32(0.5)
        self.y = np.arange(target.size[0], dtype=np.float32)[:, None] + np.float32(0.5)

    def at(self, rows: slice, columns: slice, inverse_depth: Plane | float) -> tuple[Plane, Plane]:
        """Raster coordinates, far outside for what is behind."""
        x, y, z = (
            self.turn[i, 0] * self.x[columns] + (self.turn[i, 1] * self.y[rows] + self.turn[i, 2]) for i in range(3)
        )
        if self.shift.any():
            for part, shift in zip((x, y, z), self.shift, strict=True):
                part += inverse_depth * shift
        if z.min() <= _BEHIND:
            behind = z <= _BEHIND
            x[behind], y[behind], z[behind] = _OUTSIDE, _OUTSIDE, 1
        x /= z
        y /= z
        return x, y


def remapped(picture: UInt8[np.ndarray, "h w 3"], x: Plane, y: Plane) -> UInt8[np.ndarray, "H W 3"]:
    """An 8-bit picture at raster coordinates, bicubic, borders repeated; coordinates are taken to 1/32 of a pixel."""
    x, y = ((part - np.float32(0.5)).clip(_OUTSIDE, _FARTHEST) for part in (x, y))
    return cv2.remap(picture, x, y, cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE)


def border_weight(source: Camera, target: Camera) -> Plane:
    """How much a target at the source's place takes of it: all where it sees, fading beyond its border."""
    height, width = source.size
    to_source, weight = _Map(target, source), np.empty(target.size, np.float32)
    for rows in strips(target.size):
        x, y = to_source.at(rows, slice(None), 0.0)
        edge = np.minimum(np.minimum(x, width - x), np.minimum(y, height - y))
        weight[rows] = (1 + edge / _FEATHER_PX).clip(0, 1)
    return weight


def _shrunk(layer: Layer, target: Camera) -> tuple[UInt8[np.ndarray, "h w 3"], Camera]:
    """A layer's frame, averaged first where the target shows it smaller."""
    frame, camera = layer.frame, layer.camera
    shrink = float(camera.K[0, 0] / target.K[0, 0])
    if shrink > _SHRINKS:
        frame = resized(frame, tuple(max(1, round(n / shrink)) for n in frame.shape[-2:]))
        camera = camera.resized(tuple(frame.shape[-2:]))
    return np.ascontiguousarray(frame.movedim(0, -1).numpy()), camera


def strips(size: tuple[int, int]) -> Iterator[slice]:
    """Rows of a large picture (H, W)."""
    rows = max(1, _STRIP_PIXELS // size[1])
    for top in range(0, size[0], rows):
        yield slice(top, min(size[0], top + rows))


def enlarged(maps: Float[Tensor, "C h w"], size: tuple[int, int]) -> Float[np.ndarray, "C H W"]:
    """Bilinear, plane by plane."""
    out = np.empty((len(maps), *size), np.float32)
    for part, plane in zip(out, maps.numpy(), strict=True):
        cv2.resize(np.ascontiguousarray(plane), size[::-1], part, interpolation=cv2.INTER_LINEAR)
    return out
