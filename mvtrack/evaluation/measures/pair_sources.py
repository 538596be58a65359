"""Where the geometry of two pictures comes from: the benchmark's depth, estimates, or depth files somebody made."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from mvtrack.evaluation.benchmarks.pictures import read_arrays
from mvtrack.evaluation.interface import Sample
from mvtrack.geometry.camera import Camera
from mvtrack.geometry.splat import splat_depth
from mvtrack.metrics.warp_consistency import PairGeometry

REFERENCE = "reference"  # the folder of depth files that are about the reference
Frame = tuple[int, int]  # view (0 reference, 1 generated) and time


@runtime_checkable
class PairSource(Protocol):
    """Gives the geometry of pairs of frames of one sample. name: as in `warp_consistency[name,features]`."""

    name: str
    needs: tuple[str, ...]

    @property
    def settings(self) -> dict: ...

    @property
    def footnote(self) -> str: ...

    def missing(self) -> str | None: ...

    def files(self, method: str, key: str) -> list[Path]: ...

    def pairs(self, sample: Sample, frames: list[tuple[Frame, Frame]]) -> Iterator[PairGeometry]:
        """Geometry of each pair, in their order, for pictures of the sample's size or of one that the source chose.
        ValueError where there is none."""


@dataclass(frozen=True)
class TrueDepth:
    """The benchmark's depth and cameras. Where the benchmark lacks the target's depth, it is the reference's surface as
    the target camera sees it: what only the target sees is not compared anyway."""

    name: str = "true_depth"
    needs: tuple[str, ...] = ("camera", "source_camera", "depth")

    @property
    def settings(self) -> dict:
        return {}

    @property
    def footnote(self) -> str:
        return (
            "the benchmark's depth and cameras; the target's depth, where the benchmark has none, is the reference's "
            "surface seen from the target"
        )

    def missing(self) -> str | None:
        return None

    def files(self, method: str, key: str) -> list[Path]:
        return []

    def pairs(self, sample: Sample, frames: list[tuple[Frame, Frame]]) -> Iterator[PairGeometry]:
        inputs = sample.inputs

        def depth(view: int, time: int) -> Float[Tensor, "H W"]:
            if view == 0:
                return inputs.depth[time]
            if inputs.target_depth is not None:
                return inputs.target_depth[time]
            return splat_depth(inputs.depth[time], inputs.camera[0, time], inputs.camera[1, time])

        return _from_depth(inputs.camera, depth, frames)


@dataclass(frozen=True)
class EstimatedDepth:
    """Depth that the run's estimator finds in both videos, with the reference's cameras and those asked for."""

    name: str = "estimated_depth"
    needs: tuple[str, ...] = ("camera", "source_camera", "reference.depth", "generated.depth")

    @property
    def settings(self) -> dict:
        return {}

    @property
    def footnote(self) -> str:
        return (
            "estimated depth of both videos, the reference's cameras and those asked for; claims no order between "
            "models, as it often puts known qualities in the wrong one"
        )

    def missing(self) -> str | None:
        return None

    def files(self, method: str, key: str) -> list[Path]:
        return []

    def pairs(self, sample: Sample, frames: list[tuple[Frame, Frame]]) -> Iterator[PairGeometry]:
        maps = [torch.from_numpy(sample.estimates[need]["depth"]) for need in self.needs[2:]]
        return _from_depth(sample.inputs.camera, lambda view, time: maps[view][time], frames)


@dataclass(frozen=True)
class DepthFiles:
    """Depth that another program found: <folder>/reference/<case>.npz and <folder>/<row>/<case>.npz with `depth`
    (T, H, W), in the unit of the cameras, zero or NaN where unknown."""

    folder: Path | None = None
    name: str = "depth_files"
    needs: tuple[str, ...] = ("camera", "source_camera")

    @property
    def settings(self) -> dict:
        return {}

    @property
    def footnote(self) -> str:
        return "depth files of both videos, the reference's cameras and those asked for"

    def missing(self) -> str | None:
        if self.folder is None:
            return "depth files: pass their folder as --depth-files"
        return None if self.folder.is_dir() else f"the folder of depth files {self.folder}"

    def files(self, method: str, key: str) -> list[Path]:
        return [path for path in self._paths(method, key) if path.is_file()]

    def pairs(self, sample: Sample, frames: list[tuple[Frame, Frame]]) -> Iterator[PairGeometry]:
        maps = [
            _read_depth(path, tuple(sample.generated.shape)) for path in self._paths(sample.method, sample.inputs.key)
        ]
        return _from_depth(sample.inputs.camera, lambda view, time: maps[view][time], frames)

    def _paths(self, method: str, key: str) -> list[Path]:
        return [self.folder / part / f"{key}.npz" for part in (REFERENCE, method)]


def _from_depth(camera: Camera, depth, frames: list[tuple[Frame, Frame]]) -> Iterator[PairGeometry]:
    """camera: (2, T). depth: of a view and time, (H, W)."""
    for first, second in frames:
        yield PairGeometry.from_depth(depth(*first), depth(*second), camera[first], camera[second])


def _read_depth(path: Path, video_shape: tuple[int, int, int, int]) -> Float[Tensor, "T H W"]:
    if not path.is_file():
        raise ValueError(f"depth file {path} does not exist")
    [depth] = read_arrays(path, "depth")
    expected = (video_shape[0], *video_shape[2:])
    if depth.shape != expected or depth.dtype.kind != "f":
        raise ValueError(f"{path} holds {depth.dtype} of {depth.shape}, expected floats of {expected} (T, H, W)")
    return torch.from_numpy(depth.astype(np.float32))
