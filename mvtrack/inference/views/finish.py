"""New views of a still scene at the photographs' resolution: each beside the photograph that stands nearest to it."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from mvtrack.geometry.camera import Camera
from mvtrack.inference.full_resolution.plan import choose_geometry, refuse_too_large, shipped_refiner
from mvtrack.inference.full_resolution.region import Region
from mvtrack.inference.full_resolution.stream import FullResolution
from mvtrack.inference.views.photos import PhotoSequence
from mvtrack.models.refiner.files import load_refiner
from mvtrack.video.resize import fit_to


@dataclass(frozen=True)
class Finish:
    """geometry: what depth is taken from, for run.json."""

    full: FullResolution
    geometry: str

    def stream(self, made: Float[Tensor, "M 3 h w"]) -> Iterator[UInt8[Tensor, "3 H W"]]:
        """The model's pictures, at the region's size."""
        for frame in self.full.stream([made]):
            yield frame.result


def plan_finish(
    region: Region, sequence: PhotoSequence, photos: list[Camera], targets: Camera, subject_distance: float,
    depth: Path | str | None,
) -> Finish:  # fmt: skip
    """region: of the first photograph. sequence: which photograph each target stands beside. photos: cameras at their
    own sizes. targets: (M,) of the model's picture. depth: of the photographs, a file, a depth network, or None.

    Raises ValueError for depth that cannot be used, and for a result that does not fit into memory.
    """
    refuse_too_large(region)
    refiner = load_refiner(shipped_refiner())
    beside = []
    for size, photo in zip(sequence.sizes, photos, strict=True):
        beside.append(region.fit.camera(fit_to(size, sequence.size, "crop").camera(photo)))
    source = Camera.stack([beside[i] for i in sequence.frame_of]).to(dtype=torch.float32)
    geometry = choose_geometry(depth, refiner, region, sequence, subject_distance, len(set(sequence.frame_of)) > 1)
    cameras = Camera.stack([source, targets])
    full = FullResolution(
        refiner.blend, geometry, region, cameras, subject_distance, lambda i: sequence.read(i, i + 1)[0]
    )
    return Finish(full, geometry.name)
