"""New views of a still scene at the photographs' resolution, with the pixels of the photographs that stand nearest."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from torch import Tensor

from mvtrack.geometry.camera import Camera
from mvtrack.inference.full_resolution.compose import full_frame, mix, sees_all, turned_frame
from mvtrack.inference.full_resolution.fill import softly_filled
from mvtrack.inference.full_resolution.geometry import GeometrySource, Moments
from mvtrack.inference.full_resolution.piecewise_smooth import piecewise_smooth
from mvtrack.inference.full_resolution.plan import choose_geometry, refuse_too_large, shipped_refiner
from mvtrack.inference.full_resolution.region import Region, resized
from mvtrack.inference.full_resolution.stream import COST_SIDE, GEOMETRY_SIDE, is_same, size_of_side
from mvtrack.inference.full_resolution.warp import SourceMoment, guided_enlarged, stands_still, target_geometry
from mvtrack.inference.views.anchors import view_distances
from mvtrack.inference.views.photos import PhotoSequence
from mvtrack.models.refiner.blend import Blend
from mvtrack.models.refiner.cost_volume import ViewPair
from mvtrack.models.refiner.files import load_refiner
from mvtrack.video.resize import fit_to
from mvtrack.video.writer import from_bytes

_BESIDE = 4  # photographs that a view is made of


@dataclass(frozen=True)
class Finish:
    """region: of the first photograph, whose size the results have. sequence: the photographs. photos: (N,), targets:
    (M,): cameras of the region, lengths in distances of the subject."""

    blend: Blend
    geometry: GeometrySource
    region: Region
    sequence: PhotoSequence
    photos: Camera
    targets: Camera

    @torch.no_grad()
    def stream(self, made: Float[Tensor, "M 3 h w"]) -> Iterator[UInt8[Tensor, "3 H W"]]:
        """The model's pictures, at the region's size."""
        read = lru_cache(2 * _BESIDE)(lambda i: self.region.picture(self.sequence.read(i, i + 1)[0]))
        count, size = self.photos.shape[0], self.region.size
        gap = view_distances(self.photos, self.targets, 1.0)
        moment = lru_cache(None)(lambda i: self._moment(i, read, made, gap[i]))
        for number, picture in enumerate(made):
            order = gap[count + number, :count].argsort(stable=True).tolist()[:_BESIDE]
            source, target = self.photos[order[0]], self.targets[number]
            if is_same(source, target):
                yield read(order[0])
            elif stands_still(source, target) and sees_all(source, target):
                yield turned_frame(read(order[0]), source, target)
            else:
                yield self._composed([moment(i) for i in order], [read(i) for i in order], target, picture, size)

    def _composed(
        self, moments: list[SourceMoment], frames: list[Tensor], target: Camera, made: Tensor, size: tuple[int, int]
    ) -> UInt8[Tensor, "3 H W"]:
        cost_size, picture_size, geometry_size = self._sizes
        geometry = target_geometry(moments[0], moments[1:], target.resized(geometry_size))
        pictures = torch.stack([from_bytes(resized(resized(f, geometry_size), picture_size)) for f in frames])
        result = self.region.generated(made, cost_size, "bilinear")
        coarse, small = geometry.at(picture_size), target.resized(picture_size)
        mixture = mix(self.blend, pictures, moments, coarse, small, result, self.geometry.measured)
        generated = self.region.generated(made, size)
        return full_frame(softly_filled(mixture, result), frames, moments, geometry, target, generated)

    @property
    def _sizes(self) -> tuple[tuple[int, int], tuple[int, int], tuple[int, int]]:
        """At which planes are swept, pictures are mixed, and surfaces are carried over."""
        cost = size_of_side(self.region.size, COST_SIDE)
        geometry = size_of_side(self.region.size, min(GEOMETRY_SIDE, *self.region.size))
        return cost, (2 * cost[0], 2 * cost[1]), geometry

    def _moment(self, index: int, read, made: Float[Tensor, "M 3 h w"], gap: Float[Tensor, "n"]) -> SourceMoment:
        """Geometry of a photograph, between its two neighbours, beside the views that stand nearest to each."""
        cost_size, picture_size, geometry_size = self._sizes
        count = self.photos.shape[0]
        near = [i for i in gap[:count].argsort(stable=True).tolist() if i != index][:2]
        numbers = [*near[:1], index, *near[1:]]
        apart = view_distances(self.photos, self.targets, 1.0)[numbers, count:]
        beside = apart.argmin(1)
        pictures = torch.stack([from_bytes(resized(resized(read(i), geometry_size), picture_size)) for i in numbers])
        results = torch.stack([self.region.generated(made[i], cost_size, "bilinear") for i in beside])
        camera = Camera.stack([self.photos[numbers], self.targets[beside]])
        pair = ViewPair(resized(pictures, cost_size), results, camera.resized(cost_size))
        at = numbers.index(index)
        moments = Moments(pair, pictures, camera.resized(picture_size), numbers)
        maps = self.geometry.maps(moments, at)
        if self.geometry.measured:
            maps = F.interpolate(maps[None], geometry_size, mode="nearest-exact")[0]
        else:
            picture = resized(pictures[at], tuple(maps.shape[-2:]))
            maps = piecewise_smooth(maps, picture, self.geometry.smoothing(moments, at))
            maps = guided_enlarged(maps, picture, from_bytes(resized(read(index), geometry_size)))
        return SourceMoment(maps[0], maps[1], self.photos[index].resized(geometry_size))


def plan_finish(
    region: Region, sequence: PhotoSequence, photos: list[Camera], targets: Camera, subject_distance: float,
    depth: Path | str | None,
) -> Finish:  # fmt: skip
    """photos: cameras at their own sizes. targets: (M,) of the model's picture. depth: of the photographs, a file, a
    depth network, or None.

    Raises ValueError for depth that cannot be used, and for a result that does not fit into memory.
    """
    refuse_too_large(region)
    refiner = load_refiner(shipped_refiner())
    cropped = [
        region.fit.camera(fit_to(size, sequence.size, "crop").camera(photo))
        for size, photo in zip(sequence.sizes, photos, strict=True)
    ]
    geometry = choose_geometry(depth, refiner, region, sequence, subject_distance, len(photos) > 1)
    cameras = (
        region.camera(camera.to(dtype=torch.float32).scaled(1 / subject_distance))
        for camera in (Camera.stack(cropped), targets)
    )
    return Finish(refiner.blend, geometry, region, sequence, *cameras)
