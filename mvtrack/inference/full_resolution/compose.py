"""One target frame from the source's pictures and the generated one, at any size."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from torch import Tensor

from mvtrack.geometry.camera import Camera
from mvtrack.geometry.inverse_depth import correspondence, inside, sample
from mvtrack.inference.full_resolution.region import resized
from mvtrack.inference.full_resolution.warp import SourceMoment, TargetGeometry, crisp_enlarged, lookup
from mvtrack.models.refiner.blend import Blend
from mvtrack.video.writer import from_bytes

_STRIP_PIXELS = 1 << 20  # of a picture that are warped at once
_FEATHER_PX = 3.0  # beyond the source's border, over which its repeated edge gives way
_NOTHING = 1e-3  # weight below which a picture is not looked up
_SHRINKS = 1.3  # factor from which on a warp would skip pixels
_UNSURE, _SHARPEST = 0.02, 3.0  # of how likely something is seen; the largest change that finer geometry makes


@dataclass(frozen=True)
class Mixture:
    """weights: of the source at this moment, of its other moments, of the generated picture; they add up to one.
    residual: added to the generated picture. seen: see `lookup`, of this moment and of others."""

    weights: Float[Tensor, "3 h w"]
    residual: Float[Tensor, "3 h w"]
    warped: Float[Tensor, "2 3 h w"]
    seen: Float[Tensor, "2 h w"]


def mix(
    blend: Blend,
    pictures: Float[Tensor, "N 3 h w"],
    moments: Sequence[SourceMoment],
    geometry: TargetGeometry,
    target: Camera,
    generated: Float[Tensor, "3 p q"],
    measured: bool,
) -> Mixture:
    """How a target frame is mixed, at the blend's own size, twice that of `generated`.

    pictures, moments: the source at this moment, then at others. measured: whether depth was given.
    """
    now, here = lookup(geometry, target, moments[0])
    size = moments[0].camera.size
    confidence = sample(moments[0].confidence[None, None], now[None], size)[0, 0]
    colour = sample(pictures[:1], now[None], size, "bicubic")[0]
    elsewhere, total = torch.zeros_like(colour), torch.zeros_like(here)
    for picture, moment in zip(pictures[1:], moments[1:], strict=True):
        xy, there = lookup(geometry, target, moment, both_sides=True)
        elsewhere = elsewhere + there * sample(picture[None], xy[None], size, "bicubic")[0]
        total = total + there
    elsewhere = torch.where(total > 1e-3, elsewhere / total.clamp_min(1e-3), colour)
    warped, seen = torch.stack([colour, elsewhere]), torch.stack([here, total.clamp_max(1)])
    baseline = (target.c2w[:3, 3] - moments[0].camera.c2w[:3, 3]).norm() * target.K[0, 0]
    weights, residual = blend(
        warped[None], seen[None], generated[None], geometry.inverse_depth[None], confidence[None],
        baseline.new_tensor([float(measured)]), baseline[None],
    )  # fmt: skip
    return Mixture(weights[0], residual[0], warped, seen)


def mixed(mixture: Mixture, generated: Float[Tensor, "3 p q"]) -> Float[Tensor, "3 h w"]:
    """The picture at the blend's own size."""
    enlarged = F.interpolate(generated[None], mixture.residual.shape[-2:], mode="bicubic", align_corners=False)[0]
    layers = torch.cat([mixture.warped, (enlarged + mixture.residual)[None]])
    return (mixture.weights[:, None] * layers).sum(0)


def full_frame(
    mixture: Mixture,
    frames: Sequence[UInt8[Tensor, "3 H W"]],
    moments: Sequence[SourceMoment],
    geometry: TargetGeometry,
    target: Camera,
    generated: Float[Tensor, "3 H W"],
) -> Float[Tensor, "3 H W"]:
    """A target frame at full size. frames, moments: the source at this moment, then at others. generated: enlarged."""
    coarse = target.resized(tuple(geometry.inverse_depth.shape))
    seen = [lookup(geometry, coarse, moment, both_sides=i > 0)[1] for i, moment in enumerate(moments)]
    weights = _enlarged(finer_weights(mixture, torch.stack(seen)), target.size)
    inverse_depth = crisp_enlarged(geometry.inverse_depth, target.size)
    out = weights[-1] * (generated + _enlarged(mixture.residual, target.size))
    for weight, frame, moment in zip(weights[:-1], frames, moments, strict=True):
        if weight.max() > _NOTHING:
            add_warped(out, weight, frame, moment.camera.resized(frame.shape[-2:]), inverse_depth, target)
    return out.clamp(-1, 1)


def turned_frame(
    frame: UInt8[Tensor, "3 H W"], source: Camera, target: Camera, otherwise: Float[Tensor, "3 H W"]
) -> Float[Tensor, "3 H W"]:
    """A target frame at the source's place, where no depth is needed: the source's pixels wherever it sees, and
    another picture outside, over an edge of a few pixels. Cameras without leading shape, of the pictures' size."""
    any_depth = torch.ones(target.size)
    out, weight = torch.zeros_like(otherwise), torch.zeros(target.size)
    for rows, view in strips(target):
        xy = correspondence(any_depth[None, rows], view, source)[0][0]
        edge = torch.minimum(xy, xy.new_tensor([source.size[1], source.size[0]]) - xy).amin(-1)
        weight[rows] = (1 + edge / _FEATHER_PX).clamp(0, 1)
    add_warped(out, weight, frame, source, any_depth, target)
    return (out + (1 - weight) * otherwise).clamp(-1, 1)


def add_warped(
    out: Float[Tensor, "3 H W"], weight: Float[Tensor, "H W"], frame: UInt8[Tensor, "3 h w"], source: Camera,
    inverse_depth: Float[Tensor, "H W"], target: Camera,
) -> None:  # fmt: skip
    """Add a source frame, seen by the target and times a weight, to a picture. A frame that shrinks is averaged."""
    shrink = float(source.K[0, 0] / target.K[0, 0])
    if shrink > _SHRINKS:
        frame = resized(frame, tuple(max(1, round(n / shrink)) for n in frame.shape[-2:]))
        source = source.resized(tuple(frame.shape[-2:]))
    picture = np.ascontiguousarray(frame.movedim(0, -1).numpy())
    for rows, view in strips(target):
        if weight[rows].max() > _NOTHING:
            xy = correspondence(inverse_depth[None, rows], view, source)[0][0]
            out[:, rows] += weight[rows] * from_bytes(remapped(picture, xy))


def remapped(picture: UInt8[np.ndarray, "h w 3"], xy: Float[Tensor, "H W 2"]) -> UInt8[Tensor, "3 H W"]:
    """An 8-bit picture at raster coordinates, bicubic, borders repeated; coordinates are taken to 1/32 of a pixel."""
    columns, rows = (xy - 0.5).clamp(-8, 32000).unbind(-1)
    values = cv2.remap(picture, columns.numpy(), rows.numpy(), cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE)
    return torch.from_numpy(values).movedim(-1, 0)


def sees_all(source: Camera, target: Camera) -> bool:
    """Whether a source at the target's place shows all of what the target does (cameras without leading shape)."""
    corners = [target.cropped(x, y, (1, 1)) for x in (0, target.size[1] - 1) for y in (0, target.size[0] - 1)]
    xy = torch.stack([correspondence(torch.ones(1, 1, 1), corner, source)[0].view(2) for corner in corners])
    return bool(inside(xy, source.size).all())


def strips(target: Camera) -> Iterator[tuple[slice, Camera]]:
    """A large picture in rows, with the camera of each."""
    height, width = target.size
    rows = max(1, _STRIP_PIXELS // width)
    for top in range(0, height, rows):
        bottom = min(height, top + rows)
        yield slice(top, bottom), target.cropped(0, top, (bottom - top, width))


def finer_weights(mixture: Mixture, seen: Float[Tensor, "N h w"]) -> Float[Tensor, "M h w"]:
    """Weights of each of N moments and of the generated picture, M = N + 1, from coarser ones: where finer geometry
    sees more or less of the source than the coarser one did, they follow."""
    size = tuple(seen.shape[-2:])
    coarse, coarse_seen = _enlarged(mixture.weights, size), _enlarged(mixture.seen, size)
    others = seen[1:].sum(0)
    both = torch.stack([seen[0], others.clamp_max(1)])
    now, other = coarse[:2] * ((both + _UNSURE) / (coarse_seen + _UNSURE)).clamp_max(_SHARPEST)
    each = [other * share / others.clamp_min(_UNSURE) for share in seen[1:]]
    weights = torch.stack([now, *each, coarse[2]])
    return weights / weights.sum(0).clamp_min(1e-6)


def _enlarged(maps: Float[Tensor, "C h w"], size: tuple[int, int]) -> Float[Tensor, "C H W"]:
    return F.interpolate(maps[None], size, mode="bilinear", align_corners=False)[0]
