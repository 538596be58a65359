"""A generated video brought to full resolution, frame by frame as it is generated.

Only a few moments are held at a time, so that memory does not grow with the video's length.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from mvtrack.geometry.camera import Camera
from mvtrack.inference.full_resolution.compose import Mixture, full_frame, mix, sees_all, turned_frame
from mvtrack.inference.full_resolution.fill import softly_filled
from mvtrack.inference.full_resolution.geometry import GeometrySource, Moments
from mvtrack.inference.full_resolution.piecewise_smooth import piecewise_smooth
from mvtrack.inference.full_resolution.region import Region, resized
from mvtrack.inference.full_resolution.warp import (
    SourceMoment,
    TargetGeometry,
    guided_enlarged,
    stands_still,
    steadied,
    target_geometry,
)
from mvtrack.models.refiner.blend import Blend
from mvtrack.models.refiner.cost_volume import ViewPair
from mvtrack.video.writer import from_bytes

COST_SIDE = 64  # the shorter side at which planes are swept; pictures are twice as large
GEOMETRY_SIDE = 256  # the shorter side at which surfaces are carried over, unless the result is smaller
REACH = 8  # frames to the other moments from which a target frame is filled
_STEADIED = 2  # frames before and after that a moment's depth is averaged with


@dataclass(frozen=True)
class FullSize:
    """One frame, 8 bit. source and result as large as the region."""

    source: UInt8[Tensor, "3 H W"]
    result: UInt8[Tensor, "3 H W"]


@dataclass(frozen=True)
class Surfaces:
    """What source and target show at one moment. picture: of the source, as large as both maps. inverse_depth: of the
    source, in 1 / the subject's distance."""

    picture: UInt8[Tensor, "3 h w"]
    inverse_depth: Float[Tensor, "h w"]
    target: TargetGeometry


@dataclass
class _Held:
    """What is held of one frame. frame: of the source, as large as the region; view, picture, small: smaller. made: by
    the model; result: that as large as `small`. rough, smoothing, moment: its geometry, when it is known."""

    frame: UInt8[Tensor, "3 H W"]
    view: UInt8[Tensor, "3 g k"]
    picture: Float[Tensor, "3 h w"]
    small: Float[Tensor, "3 p q"]
    made: Float[Tensor, "3 m n"]
    result: Float[Tensor, "3 p q"]
    rough: Float[Tensor, "2 h w"] | None = None
    smoothing: float = 0.0
    moment: SourceMoment | None = None


class FullResolution:
    """read: a frame of the source. camera: (2, T) of the model's picture. subject_distance: in the cameras' unit."""

    def __init__(
        self, blend: Blend, geometry: GeometrySource, region: Region, camera: Camera, subject_distance: float,
        read: Callable[[int], UInt8[Tensor, "3 H W"]],
    ) -> None:  # fmt: skip
        self.blend, self.geometry, self.region, self.read = blend, geometry, region, read
        self.camera = region.camera(camera.scaled(1 / subject_distance))
        self.cost_size = size_of_side(region.size, COST_SIDE)
        self.picture_size = (2 * self.cost_size[0], 2 * self.cost_size[1])
        self.geometry_size = size_of_side(region.size, min(GEOMETRY_SIDE, *region.size))
        self.held: dict[int, _Held] = {}

    @torch.no_grad()
    def stream(self, made: Iterable[Float[Tensor, "_ 3 h w"]]) -> Iterator[FullSize]:
        """made: the model's pictures in pieces. Frames come as soon as what they look ahead to is there."""
        for number in self._settled(made):
            yield self._compose(number)

    @torch.no_grad()
    def surfaces(self, made: Iterable[Float[Tensor, "_ 3 h w"]]) -> Iterator[Surfaces]:
        """The geometry that `stream` works with, and no pictures at full size."""
        for number in self._settled(made):
            moments = [self.held[n].moment for n in (number, *self._others(number))]
            target = self.camera[1, number].resized(self.geometry_size)
            geometry = target_geometry(moments[0], moments[1:], target)
            yield Surfaces(self.held[number].view, moments[0].inverse_depth, geometry)

    def _settled(self, made: Iterable[Float[Tensor, "_ 3 h w"]]) -> Iterator[int]:
        """Numbers of frames, in order, when the geometry of all that they look at is known."""
        frames, taken, rough, settled, done = self.camera.shape[1], 0, 0, 0, 0
        for piece in made:
            for picture in piece:
                self.held[taken] = self._take(taken, picture)
                taken += 1
                while rough < taken and (taken == frames or rough + self.geometry.reach < taken):
                    self._estimate(rough)
                    rough += 1
                while settled < rough and (rough == frames or settled + _STEADIED < rough):
                    self.held[settled].moment = self._settle(settled)
                    settled += 1
                while done < settled and (settled == frames or done + REACH < settled):
                    yield done
                    done += 1
                    for number in [n for n in self.held if n < done - max(REACH, self.geometry.reach)]:
                        del self.held[number]

    def _take(self, number: int, made: Float[Tensor, "3 h w"]) -> _Held:
        frame = self.region.picture(self.read(number))
        view = resized(frame, self.geometry_size)
        picture = from_bytes(resized(view, self.picture_size))
        result = self.region.generated(made, self.cost_size, "bilinear")
        return _Held(frame, view, picture, resized(picture, self.cost_size), made, result)

    def _estimate(self, number: int) -> None:
        """Geometry of one moment by itself."""
        reach = self.geometry.reach
        numbers = [n for n in range(number - reach, number + reach + 1) if n in self.held]
        held, camera = [self.held[n] for n in numbers], self.camera[:, numbers]
        pair = ViewPair(
            torch.stack([h.small for h in held]), torch.stack([h.result for h in held]), camera.resized(self.cost_size)
        )
        pictures = torch.stack([h.picture for h in held])
        moments = Moments(pair, pictures, camera.resized(self.picture_size), numbers)
        own, index = self.held[number], numbers.index(number)
        own.rough, own.smoothing = self.geometry.maps(moments, index), self.geometry.smoothing(moments, index)

    def _settle(self, number: int) -> SourceMoment:
        """Geometry of one moment, steadied by its neighbours' and brought to the size at which it is carried over."""
        own, camera = self.held[number], self.camera[0, number].resized(self.geometry_size)
        picture, maps = from_bytes(own.view), own.rough
        if not self.geometry.measured:
            numbers = [n for n in range(number - _STEADIED, number + _STEADIED + 1) if n in self.held]
            near = [self.held[n] for n in numbers if self.held[n].rough is not None]
            numbers = [n for n in numbers if self.held[n].rough is not None]
            size = tuple(maps.shape[-2:])
            pictures = [resized(h.picture, size) for h in near]
            maps = steadied(
                [h.rough for h in near], pictures, self.camera[0, numbers].resized(size), numbers.index(number)
            )
            maps = piecewise_smooth(maps, resized(picture, size), own.smoothing)
            maps = guided_enlarged(maps, resized(picture, size), picture)
        else:
            maps = torch.nn.functional.interpolate(maps[None], self.geometry_size, mode="nearest-exact")[0]
        return SourceMoment(maps[0], maps[1], camera)

    def _compose(self, number: int) -> FullSize:
        own, target = self.held[number], self.camera[1, number]
        held = [own, *(self.held[n] for n in self._others(number))]
        moments, source = [h.moment for h in held], self.camera[0, number]
        if is_same(source, target):
            return FullSize(own.frame, own.frame)
        if stands_still(source, target) and sees_all(source, target):
            return FullSize(own.frame, turned_frame(own.frame, source, target))
        geometry = target_geometry(moments[0], moments[1:], target.resized(self.geometry_size))
        mixture = self._mix(own, held, geometry, target)
        generated = self.region.generated(own.made, self.region.size)
        return FullSize(own.frame, full_frame(mixture, [h.frame for h in held], moments, geometry, target, generated))

    def _others(self, number: int) -> list[int]:
        """The other moments from which a frame is filled."""
        near = (number - REACH, number + REACH)
        return [n for n in near if n in self.held and self.held[n].moment is not None]

    def _mix(self, own: _Held, held: list[_Held], geometry: TargetGeometry, target: Camera) -> Mixture:
        pictures, moments = torch.stack([h.picture for h in held]), [h.moment for h in held]
        coarse, small = geometry.at(self.picture_size), target.resized(self.picture_size)
        mixture = mix(self.blend, pictures, moments, coarse, small, own.result, self.geometry.measured)
        return softly_filled(mixture, own.result)


def is_same(source: Camera, target: Camera) -> bool:
    """Whether two cameras see the same picture, so that nothing has to be computed."""
    return bool(torch.equal(source.c2w, target.c2w) and torch.equal(source.K, target.K))


def size_of_side(size: tuple[int, int], shorter: int) -> tuple[int, int]:
    """A size of the same aspect, nearly, whose shorter side is so long."""
    factor = shorter / min(size)
    return max(shorter, round(size[0] * factor)), max(shorter, round(size[1] * factor))
