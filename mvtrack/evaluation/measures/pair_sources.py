"""Where the geometry of two pictures comes from: the benchmark's depth, estimates, depth files, or a network."""

import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from mvtrack.data.public.files import read_arrays
from mvtrack.evaluation.adapters import external_program, picture_name, write_videos
from mvtrack.evaluation.interface import Part, Sample
from mvtrack.files.cache import weights_identity
from mvtrack.geometry.camera import Camera
from mvtrack.geometry.splat import splat_depth
from mvtrack.inference.external_program import ExternalProgram
from mvtrack.metrics.warp_consistency import PairGeometry
from mvtrack.models.weights.consent import consent_lacking

REFERENCE = "reference"  # the folder of depth files that are about the reference
Frame = tuple[int, int]  # view (0 reference, 1 generated) and time
NetworkKind = Literal["mast3r", "vggt", "depth_anything_3"]
NETWORK_KINDS: tuple[NetworkKind, ...] = get_args(NetworkKind)
_PUBLISHED: dict[NetworkKind, str] = {
    "mast3r": "naver/MASt3R_ViTLarge_BaseDecoder_512_catmlpdpt_metric",
    "vggt": "facebook/VGGT-1B",
    "depth_anything_3": "depth-anything/DA3-BASE",
}
_MAST3R_IS_BOUND = (
    "consent: MASt3R, code and weights, is for non-commercial use (CC BY-NC-SA 4.0); pass --non-commercial"
)


class PairSource(Part):
    """Gives the geometry of pairs of frames of one sample. name: as in `warp_consistency[name,features]`."""

    footnote: str = ""

    def files(self, method: str, key: str) -> list[Path]:
        """Files that somebody made for one row's case."""
        return []

    def pairs(self, sample: Sample, frames: list[tuple[Frame, Frame]]) -> Iterator[PairGeometry]:
        """Geometry of each pair, in their order, for pictures of the sample's size or of one that the source chose.
        ValueError where there is none."""
        raise NotImplementedError


@dataclass(frozen=True)
class TrueDepth(PairSource):
    """The benchmark's depth and cameras. Where the benchmark lacks the target's depth, it is the reference's surface as
    the target camera sees it: what only the target sees is not compared anyway."""

    name = "true_depth"
    needs = ("camera", "source_camera", "depth")
    footnote = (
        "the benchmark's depth and cameras; the target's depth, where the benchmark has none, is the reference's "
        "surface seen from the target"
    )

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
class EstimatedDepth(PairSource):
    """Depth that the run's estimator finds in both videos, with the reference's cameras and the target path's."""

    name = "estimated_depth"
    needs = ("camera", "source_camera", "reference.depth", "generated.depth")
    footnote = (
        "estimated depth of both videos, the reference's and the target path's cameras; claims no order between "
        "models, as it often puts known qualities in the wrong one"
    )

    def pairs(self, sample: Sample, frames: list[tuple[Frame, Frame]]) -> Iterator[PairGeometry]:
        maps = [torch.from_numpy(sample.estimates[need]["depth"]) for need in self.needs[2:]]
        return _from_depth(sample.inputs.camera, lambda view, time: maps[view][time], frames)


@dataclass(frozen=True)
class DepthFiles(PairSource):
    """Depth that another program found: <folder>/reference/<case>.npz and <folder>/<row>/<case>.npz with `depth`
    (T, H, W), in the unit of the cameras, zero or NaN where unknown."""

    folder: Path | None = None
    name = "depth_files"
    needs = ("camera", "source_camera")
    footnote = "depth files of both videos, the reference's and the target path's cameras"

    def missing(self) -> str | None:
        if self.folder is None:
            return "depth files: set consistency.depth_files"
        return None if self.folder.is_dir() else f"the folder of depth files {self.folder}"

    def files(self, method: str, key: str) -> list[Path]:
        return [path for path in self._paths(method, key) if path.is_file()]

    def pairs(self, sample: Sample, frames: list[tuple[Frame, Frame]]) -> Iterator[PairGeometry]:
        paths, video = self._paths(sample.method, sample.inputs.key), sample.generated
        maps = [_read_depth(path, (len(video), *video.shape[-2:])) for path in paths]
        return _from_depth(sample.inputs.camera, lambda view, time: maps[view][time], frames)

    def _paths(self, method: str, key: str) -> list[Path]:
        return [self.folder / part / f"{key}.npz" for part in (REFERENCE, method)]


@dataclass(frozen=True)
class PairNetwork(PairSource):
    """A network in an environment of its own. python: its interpreter. model: a hub id or path that its loader takes;
    "": the published one. non_commercial: whether what may not be used commercially, or nobody knows the licence of,
    may run. The network sees each pair alone, its pictures scaled, not cropped."""

    name: NetworkKind
    python: Path | None = None
    model: str = ""
    non_commercial: bool = False

    @property
    def weights(self) -> str:
        return self.model or _PUBLISHED[self.name]

    @property
    def _program(self) -> ExternalProgram:
        return external_program(self.name, self.python)

    @property
    def settings(self) -> dict:
        return {"weights": weights_identity(self.weights), "package": self._program.identity()}

    @property
    def footnote(self) -> str:
        return f"{self._program.title} ({self.weights}) on each pair by itself"

    def missing(self) -> str | None:
        if (lacking := self._program.missing()) or self.non_commercial:
            return lacking
        return _MAST3R_IS_BOUND if self.name == "mast3r" else consent_lacking(self.weights)

    def pairs(self, sample: Sample, frames: list[tuple[Frame, Frame]]) -> Iterator[PairGeometry]:
        with tempfile.TemporaryDirectory(prefix="mvtrack-pairs-") as name:
            self.run(Path(name), [(sample, frames)])
            yield from read_pairs(Path(name), 0, len(frames))

    def run(self, folder: Path, work: list[tuple[Sample, list[tuple[Frame, Frame]]]]) -> None:
        """Leave the geometry of all samples' pairs in a folder, for `read_pairs`."""
        pairs = []
        for n, (sample, frames) in enumerate(work):
            write_videos(folder / str(n), sample)
            pairs += [[picture_name(n, *a), picture_name(n, *b), f"{n}/{p:05d}.npz"] for p, (a, b) in enumerate(frames)]
        self._program.run(folder, job={"kind": self.name, "model": self.weights, "pairs": pairs}, result=None)


def read_pairs(folder: Path, sample: int, count: int) -> Iterator[PairGeometry]:
    """What a worker left, one pair after the other. ValueError when it is not what it should be."""
    for pair in range(count):
        path = folder / str(sample) / f"{pair:05d}.npz"
        first, second, K = (torch.from_numpy(a) for a in read_arrays(path, "first", "second", "K"))
        if first.shape[2:] != (3,) or second.shape[2:] != (3,) or K.shape != (3, 3):
            raise ValueError(f"{path.name} of the pair network holds {tuple(first.shape)}, {tuple(second.shape)}")
        seen = ((p.isfinite().all(-1) & (p[..., 2] > 0))[..., None] for p in (first, second))
        points = (torch.where(known, p, torch.nan) for known, p in zip(seen, (first, second), strict=True))
        yield PairGeometry(*points, Camera(torch.eye(4), K.float(), tuple(first.shape[:2])))


def _from_depth(
    camera: Camera, depth: Callable[[int, int], Tensor], frames: list[tuple[Frame, Frame]]
) -> Iterator[PairGeometry]:
    """camera: (2, T). depth: of a view and time, (H, W)."""
    for first, second in frames:
        yield PairGeometry.from_depth(depth(*first), depth(*second), camera[first], camera[second])


def _read_depth(path: Path, shape: tuple[int, int, int]) -> Float[Tensor, "T H W"]:
    if not path.is_file():
        raise ValueError(f"depth file {path} does not exist")
    [depth] = read_arrays(path, "depth")
    if depth.shape != shape or depth.dtype.kind != "f":
        raise ValueError(f"{path} holds {depth.dtype} of {depth.shape}, expected floats of {shape} (T, H, W)")
    return torch.from_numpy(depth.astype(np.float32))
