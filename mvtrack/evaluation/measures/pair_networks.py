"""Geometry of picture pairs from networks that run in environments of their own: MASt3R, VGGT, Depth Anything 3."""

import tempfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Literal, get_args

import torch

from mvtrack.evaluation.benchmarks.pictures import read_arrays
from mvtrack.evaluation.interface import Declined, Sample, Scores, failed
from mvtrack.evaluation.measures.consistency import WarpConsistency
from mvtrack.evaluation.measures.pair_sources import Frame
from mvtrack.files.cache import weights_identity
from mvtrack.geometry.camera import Camera
from mvtrack.inference.camera_estimation.job import has_module, package_identity, run_program, write_frames
from mvtrack.metrics.warp_consistency import PairGeometry
from mvtrack.models.weights.consent import consent_lacking
from mvtrack.video.writer import to_bytes

NetworkKind = Literal["mast3r", "vggt", "depth_anything_3"]
NETWORK_KINDS: tuple[NetworkKind, ...] = get_args(NetworkKind)
WORKERS = Path(__file__).parents[1] / "workers"
_TITLES = {"mast3r": "MASt3R", "vggt": "VGGT", "depth_anything_3": "Depth Anything 3"}
_MODELS = {
    "mast3r": "naver/MASt3R_ViTLarge_BaseDecoder_512_catmlpdpt_metric",
    "vggt": "facebook/VGGT-1B",
    "depth_anything_3": "depth-anything/DA3-BASE",
}
_MAST3R_IS_BOUND = (
    "consent: MASt3R, code and weights, is for non-commercial use (CC BY-NC-SA 4.0); pass --non-commercial"
)
_TOGETHER = 4  # samples in memory while the network is loaded once
_TIMEOUT_S = 6 * 3600.0


@dataclass(frozen=True)
class PairNetwork:
    """python: the interpreter of the network's environment. model: a hub id or path that its loader takes; "": the
    published one. non_commercial: whether what may not be used commercially, or nobody knows the licence of, may run.
    Each pair is given to the network alone, its pictures scaled, not cropped."""

    name: NetworkKind
    python: Path | None = None
    model: str = ""
    non_commercial: bool = False
    needs: tuple[str, ...] = ()

    @property
    def weights(self) -> str:
        return self.model or _MODELS[self.name]

    @property
    def option(self) -> str:
        return f"--{'da3' if self.name == 'depth_anything_3' else self.name}-python"

    @property
    def settings(self) -> dict:
        package = None if self.python is None else package_identity(self.python, self.name)
        return {"weights": weights_identity(self.weights), "package": package}

    @property
    def footnote(self) -> str:
        return f"{_TITLES[self.name]} ({self.weights}) on each pair by itself"

    def missing(self) -> str | None:
        if self.python is None:
            return f"{_TITLES[self.name]}: install it in its own environment and pass {self.option}"
        if not has_module(self.python, self.name):
            return f"the package {self.name} in {self.python}"
        if self.non_commercial:
            return None
        return _MAST3R_IS_BOUND if self.name == "mast3r" else consent_lacking(self.weights)

    def files(self, method: str, key: str) -> list[Path]:
        return []

    def pairs(self, sample: Sample, frames: list[tuple[Frame, Frame]]) -> Iterator[PairGeometry]:
        with tempfile.TemporaryDirectory(prefix="mvtrack-pairs-") as name:
            self.run(Path(name), [(sample, frames)])
            yield from read_pairs(Path(name), 0, len(frames))

    def run(self, folder: Path, work: list[tuple[Sample, list[tuple[Frame, Frame]]]]) -> None:
        """Leave the geometry of all samples' pairs in a folder, for `read_pairs`."""
        pairs = []
        for n, (sample, frames) in enumerate(work):
            write_videos(folder / str(n), sample)
            pairs += [[picture_name(n, a), picture_name(n, b), f"{n}/{p:05d}.npz"] for p, (a, b) in enumerate(frames)]
        job = {"kind": self.name, "model": self.weights, "pairs": pairs}
        run_program(WORKERS / "pairs_worker.py", folder, job=job, python=self.python, timeout_s=_TIMEOUT_S)


class NetworkWarpConsistency(WarpConsistency):
    """Warp consistency with the geometry of a `PairNetwork`, loaded once for several videos."""

    def score_batch(self, samples: Iterable[Sample]) -> list[Scores | Declined]:
        return few_at_a_time(samples, self._score_together)

    def _score_together(self, samples: list[Sample]) -> list[Scores | Declined]:
        work = [(sample, self.frames(len(sample.generated))) for sample in samples]
        with tempfile.TemporaryDirectory(prefix="mvtrack-pairs-") as name:
            try:
                self.source.run(Path(name), work)
            except ValueError as error:
                return [failed(str(error))] * len(samples)
            return [self._one(Path(name), n, *one) for n, one in enumerate(work)]

    def _one(self, folder: Path, n: int, sample: Sample, frames: list[tuple[Frame, Frame]]) -> Scores | Declined:
        try:
            return self.compared(sample, frames, read_pairs(folder, n, len(frames)))
        except ValueError as error:
            return failed(str(error))


def few_at_a_time(
    samples: Iterable[Sample], score: Callable[[list[Sample]], list[Scores | Declined]]
) -> list[Scores | Declined]:
    """Results of all samples, of which only a few are in memory at once."""
    samples, results = iter(samples), []
    while together := list(islice(samples, _TOGETHER)):
        results += score(together)
    return results


def write_videos(folder: Path, sample: Sample) -> None:
    """Both videos as pictures: 0/frames/00000.png ... of the reference, 1/frames/... of the generated one."""
    for view, video in enumerate((sample.inputs.reference, sample.generated)):
        write_frames(folder / str(view), to_bytes(video))


def picture_name(sample: int, frame: Frame) -> str:
    """Where a sample's picture lies in the job folder."""
    return f"{sample}/{frame[0]}/frames/{frame[1]:05d}.png"


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
