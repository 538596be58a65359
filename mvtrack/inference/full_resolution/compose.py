"""One target frame from the source's pictures and the generated one, at any size."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from torch import Tensor

from mvtrack.geometry.camera import Camera
from mvtrack.geometry.inverse_depth import correspondence, inside, sample
from mvtrack.inference.full_resolution.layers import Layer, add_up, border_weight, enlarged
from mvtrack.inference.full_resolution.warp import SourceMoment, TargetGeometry, crisp_enlarged, lookup, stands_still
from mvtrack.models.refiner.blend import Blend

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
    blend: Blend, pictures: Float[Tensor, "N 3 h w"], moments: Sequence[SourceMoment], geometry: TargetGeometry,
    target: Camera, generated: Float[Tensor, "3 p q"], measured: bool,
) -> Mixture:  # fmt: skip
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
    mixture: Mixture, frames: Sequence[UInt8[Tensor, "3 H W"]], moments: Sequence[SourceMoment],
    geometry: TargetGeometry, target: Camera, generated: Float[Tensor, "3 H W"],
) -> UInt8[Tensor, "3 H W"]:  # fmt: skip
    """A target frame at full size. frames, moments: the source at this moment, then at others. generated: enlarged.

    Where the target stands at the source's place, depth has no effect: all that the source shows is taken from it.
    """
    size, cameras = target.size, [m.camera.resized(f.shape[-2:]) for f, m in zip(frames, moments, strict=True)]
    coarse = target.resized(tuple(geometry.inverse_depth.shape))
    seen = [lookup(geometry, coarse, moment, both_sides=i > 0)[1] for i, moment in enumerate(moments)]
    weights = enlarged(finer_weights(mixture, torch.stack(seen)), size)
    if stands_still(cameras[0], target):
        here = border_weight(cameras[0], target)
        weights *= 1 - here
        weights[0] += here
    base = enlarged(mixture.residual, size)
    base += generated.numpy()
    base += 1
    base *= 127.5 * weights[-1]
    layers = [Layer(*parts) for parts in zip(weights[:-1], frames, cameras, strict=True)]
    return add_up(layers, base, crisp_enlarged(geometry.inverse_depth, size), target)


def turned_frame(frame: UInt8[Tensor, "3 H W"], source: Camera, target: Camera) -> UInt8[Tensor, "3 H W"]:
    """A target frame at the source's place that sees no more than the source does: no depth is needed. Cameras without
    leading shape, of the pictures' size."""
    whole = Layer(np.ones(target.size, np.float32), frame, source)
    return add_up([whole], np.zeros((3, *target.size), np.float32), 0.0, target)


def sees_all(source: Camera, target: Camera) -> bool:
    """Whether a source at the target's place shows all of what the target does (cameras without leading shape)."""
    corners = [target.cropped(x, y, (1, 1)) for x in (0, target.size[1] - 1) for y in (0, target.size[0] - 1)]
    xy = torch.stack([correspondence(torch.ones(1, 1, 1), corner, source)[0].view(2) for corner in corners])
    return bool(inside(xy, source.size).all())


def finer_weights(mixture: Mixture, seen: Float[Tensor, "N h w"]) -> Float[Tensor, "M h w"]:
    """Weights of each of N moments and of the generated picture, M = N + 1, from coarser ones: where finer geometry
    sees more or less of the source than the coarser one did, they follow."""
    size = tuple(seen.shape[-2:])
    coarse, coarse_seen = (torch.from_numpy(enlarged(maps, size)) for maps in (mixture.weights, mixture.seen))
    others = seen[1:].sum(0)
    both = torch.stack([seen[0], others.clamp_max(1)])
    now, other = coarse[:2] * ((both + _UNSURE) / (coarse_seen + _UNSURE)).clamp_max(_SHARPEST)
    each = [other * share / others.clamp_min(_UNSURE) for share in seen[1:]]
    weights = torch.stack([now, *each, coarse[2]])
    return weights / weights.sum(0).clamp_min(1e-6)
