"""How well planes of inverse depth explain a source frame: against the result, and against other moments.

Costs live in the source's view, whose picture is sharp. Lengths are in distances of the subject.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from mvtrack.geometry.camera import Camera
from mvtrack.geometry.inverse_depth import correspondence, inside, sample

PLANES, FAR, NEAR = 40, 0.03, 3.0  # inverse depths from FAR to NEAR, even
OFFSETS = (-6, 6)  # other moments, in frames
CHANNELS = 4 * PLANES
_CLAMP, _UNSEEN = 0.6, 0.3  # of mean absolute colour differences; colours lie in [-1, 1]
_SOURCE, _TARGET = 0, 1


@dataclass(frozen=True)
class ViewPair:
    """Both views of consecutive moments, small. source: RGB in [-1, 1]. result: what a model made of them; None where
    there is none yet. camera: (2, T) of that size, lengths in distances of the subject."""

    source: Float[Tensor, "T 3 h w"]
    result: Float[Tensor, "T 3 h w"] | None
    camera: Camera


def plane_inverse_depths(device: torch.device | str | None = None) -> Float[Tensor, "P"]:
    """What is swept, from far to near."""
    return torch.linspace(FAR, NEAR, PLANES, device=device)


def cost_volume(pair: ViewPair, at: Int[Tensor, "B"], offsets: Sequence[int] = OFFSETS) -> Float[Tensor, "B C h w"]:
    """Costs of every plane in the source's view at the moments `at`, C = 4 P.

    Channels: the result at the same moment; the mean over the result's other moments, which holds where nothing moves;
    the same of the source's; and where a plane lies inside the result. Costs are mean absolute differences of colour,
    clamped; what is not seen costs the same on every plane.
    """
    frames, picture = len(pair.source), pair.source[at]
    flat = torch.full((len(at), PLANES, *picture.shape[-2:]), _UNSEEN).to(picture)
    if pair.result is None:
        now, there, later = flat, torch.zeros_like(flat), flat
    else:
        now, there = _cost(pair, picture, at, at, _TARGET)
        later = _mean_cost(pair, picture, at, [(at + o).clamp(0, frames - 1) for o in offsets], _TARGET)
    other = _mean_cost(pair, picture, at, [(at + o).clamp(0, frames - 1) for o in offsets], _SOURCE)
    return torch.cat([now, later, other, there], 1)


def _cost(
    pair: ViewPair, picture: Float[Tensor, "B 3 h w"], at: Int[Tensor, "B"], moments: Int[Tensor, "B"], view: int
) -> tuple[Float[Tensor, "B P h w"], Float[Tensor, "B P h w"]]:
    """Of one picture per frame, and where it is seen (1) or not (0)."""
    own, other = pair.camera[_SOURCE, at], pair.camera[view, moments]
    layers = plane_inverse_depths(picture.device)[:, None, None]
    if torch.equal(own.c2w[:, :3, 3], other.c2w[:, :3, 3]):
        layers = layers[:1]  # from one place, all planes look alike
    xy, _ = correspondence(layers.expand(len(at), -1, 1, 1), own, other)
    video = pair.source if view == _SOURCE else pair.result
    cost = (sample(video[moments], xy) - picture[:, :, None]).abs().mean(1).clamp_max(_CLAMP)
    seen = inside(xy, pair.camera.size)
    shape = (-1, PLANES, -1, -1)
    return torch.where(seen, cost, _UNSEEN).expand(shape), seen.to(cost).expand(shape)


def _mean_cost(
    pair: ViewPair, picture: Float[Tensor, "B 3 h w"], at: Int[Tensor, "B"], moments: list[Int[Tensor, "B"]], view: int
) -> Float[Tensor, "B P h w"]:
    """Mean over those moments that are others and see the point."""
    total = count = torch.zeros(1).to(picture)
    for other in moments:
        cost, seen = _cost(pair, picture, at, other, view)
        seen = seen * (other != at).to(seen)[:, None, None, None]
        total, count = total + cost * seen, count + seen
    mean = torch.where(count > 0, total / count.clamp_min(1), _UNSEEN)
    return mean.expand(len(picture), PLANES, *picture.shape[-2:])
