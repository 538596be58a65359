"""Where the depth of the source comes from: one interface, several sources of it, the best one first.

All give inverse depth in the source's view, in 1 / the subject's distance, and how far it can be trusted.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import fsum
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from mvtrack.geometry.camera import Camera
from mvtrack.geometry.inverse_depth import filled_from_behind
from mvtrack.metrics.image import gradient_energy
from mvtrack.models.refiner.cost_volume import FAR, NEAR, OFFSETS, ViewPair, cost_volume
from mvtrack.models.refiner.source_depth import SourceDepth

_TRUSTED = 0.6  # confidence that a network's depth of one picture is given
_SMOOTHED, _MOST_SMOOTHED = 8.0, 100.0  # strength of smoothing: beside a sharp result, and at most
_LEAST_SMOOTHED = 1.0  # where the source's own motion shows depth
_SHARP = 0.75  # gradient energy of a result over the source's that is sharp
_PARALLAX = 0.03  # move of the source's camera, in distances of the subject, that shows depth


@dataclass(frozen=True)
class Moments:
    """Consecutive frames of a video, small. pictures: the source, twice as large as `pair`. camera: (2, n) of that
    size, lengths in distances of the subject. numbers: of these frames in the video."""

    pair: ViewPair
    pictures: Float[Tensor, "n 3 H W"]
    camera: Camera
    numbers: Sequence[int]


@runtime_checkable
class GeometrySource(Protocol):
    """name: what it is, for run.json. measured: whether the blend may take it for exact. reach: frames before and after
    a moment that it looks at. needs_result: whether it says more once a model made its picture."""

    name: str
    measured: bool
    reach: int

    def maps(self, moments: Moments, index: int) -> Float[Tensor, "2 h w"]:
        """Inverse depth, finite and >= 0, and confidence in [0, 1] of one of the moments, at any size of its aspect."""

    def smoothing(self, moments: Moments, index: int) -> float:
        """How strongly that map is to be smoothed, see `piecewise_smooth`."""


class LearnedGeometry:
    """Planes swept between the source, the result where there is one, and the source's other moments where its motion
    is known."""

    measured, reach = False, max(OFFSETS)

    def __init__(self, network: SourceDepth, motion_known: bool, result: bool = True) -> None:
        self.network, self.offsets = network, OFFSETS
        parts = ["the source's own motion"] * motion_known + ["the result"] * result
        self.name = f"learned sweep through {' and '.join(parts)}" if parts else "learned from single frames"

    @torch.no_grad()
    def maps(self, moments: Moments, index: int) -> Float[Tensor, "2 h w"]:
        at = torch.tensor([index])
        cost = cost_volume(moments.pair, at, self.offsets)
        return self.network(moments.pictures[at], cost, moments.camera[0, at])[1][0]

    def smoothing(self, moments: Moments, index: int) -> float:
        """The more blurred the result, the less there is to match with; unless the source's own motion shows depth."""
        centres = moments.camera.c2w[0, :, :3, 3]
        moves = float((centres - centres[index]).norm(dim=-1).max()) > _PARALLAX
        if moves:
            return _LEAST_SMOOTHED
        if moments.pair.result is None:
            return _SMOOTHED
        made, source = (fsum(map(gradient_energy, video)) for video in (moments.pair.result, moments.pair.source))
        sharpness = made / max(source, 1e-6)
        return min(_MOST_SMOOTHED, _SMOOTHED * (_SHARP / max(sharpness, 1e-3)) ** 3)


class FileGeometry:
    """Depth from a file. read: z-depth of a frame in the path's unit, NaN where unknown."""

    measured, reach = True, 0

    def __init__(self, read: Callable[[int], Float[Tensor, "h w"]], subject_distance: float, name: str) -> None:
        self.read, self.distance, self.name = read, subject_distance, name

    def maps(self, moments: Moments, index: int) -> Float[Tensor, "2 h w"]:
        depth = self.read(moments.numbers[index])
        known = depth.isfinite() & (depth > 0)
        if not known.any():
            raise ValueError(f"{self.name} has no positive, finite depth in frame {moments.numbers[index]}")
        inverse = torch.where(known, self.distance / depth.clamp_min(1e-12), 0.0)
        return torch.stack([filled_from_behind(inverse, known), known.to(inverse)])

    def smoothing(self, moments: Moments, index: int) -> float:  # noqa: ARG002
        return 0.0


class MonocularGeometry:
    """A network's depth of single pictures, with scale and shift taken from another source of geometry.

    estimate: of an 8-bit picture, larger for what is nearer, up to scale and shift (as Depth Anything V2 gives it).
    """

    measured = False

    def __init__(
        self, estimate: Callable[[UInt8[Tensor, "3 H W"]], Float[Tensor, "h w"]], anchor: GeometrySource, name: str
    ) -> None:
        self.estimate, self.anchor, self.reach = estimate, anchor, anchor.reach
        self.name = f"{name}, aligned with {anchor.name}"
        self._alignment: Tensor | None = None  # (scale, shift), steadied over frames

    def maps(self, moments: Moments, index: int) -> Float[Tensor, "2 h w"]:
        anchor = self.anchor.maps(moments, index)
        picture = ((moments.pictures[index] + 1) * 127.5 + 0.5).clamp(0, 255).to(torch.uint8)
        relative = self.estimate(picture).float()
        small = torch.nn.functional.interpolate(
            relative[None, None], anchor.shape[-2:], mode="bilinear", antialias=True, align_corners=False
        )[0, 0]
        fresh = affine_fit(small.flatten(), anchor[0].flatten(), anchor[1].flatten())
        self._alignment = fresh if self._alignment is None else 0.8 * self._alignment + 0.2 * fresh
        inverse = (relative * self._alignment[0] + self._alignment[1]).clamp(FAR, 2 * NEAR)
        return torch.stack([inverse, torch.full_like(inverse, _TRUSTED)])

    def smoothing(self, moments: Moments, index: int) -> float:  # noqa: ARG002
        return 0.0  # such networks are smooth by themselves


def affine_fit(
    x: Float[Tensor, "N"], y: Float[Tensor, "N"], weight: Float[Tensor, "N"], rounds: int = 5
) -> Float[Tensor, "2"]:
    """(scale, shift) with which x comes nearest to y, the scale not negative; far outliers count little (iteratively
    reweighted least squares)."""
    trust = weight
    for _ in range(rounds):
        total = trust.sum().clamp_min(1e-9)
        mean_x, mean_y = (trust * x).sum() / total, (trust * y).sum() / total
        spread = (trust * (x - mean_x).square()).sum().clamp_min(1e-12)
        scale = ((trust * (x - mean_x) * (y - mean_y)).sum() / spread).clamp_min(0.0)
        shift = mean_y - scale * mean_x
        error = (scale * x + shift - y).abs()
        trust = weight / (1 + (error / error.median().clamp_min(1e-6)).square())
    return torch.stack([scale, shift])
