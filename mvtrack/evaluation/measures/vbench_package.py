"""VBench's dimensions as the official package computes them, in an environment of its own."""

import json
import os
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from mvtrack.evaluation.interface import Column, Declined, Sample, Scores, failed
from mvtrack.evaluation.measures.vbench_dimensions import DIMENSIONS, DINO_REPOSITORY, Dimension
from mvtrack.files.cache import sha256_once
from mvtrack.inference.camera_estimation.job import package_version, run_program
from mvtrack.models.weights.registry import registry
from mvtrack.video.writer import write_video

VARIABLE = "MVTRACK_VBENCH_PYTHON"
_WORKER = Path(__file__).parents[1] / "workers/vbench_worker.py"
_RESULT = "result_eval_results.json"
_TIMEOUT_S = 12 * 3600.0


@dataclass(frozen=True)
class VBenchPackage:
    """One dimension. python: the interpreter of VBench's environment. non_commercial: whether what is for
    non-commercial use only may be run."""

    dimension: str
    python: Path | None = None
    non_commercial: bool = False
    version: int = 1
    needs: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        return f"vbench_{self.dimension}"

    @property
    def columns(self) -> tuple[Column, ...]:
        return (self._dimension.column,)

    @property
    def _dimension(self) -> Dimension:
        return DIMENSIONS[self.dimension]

    @property
    def settings(self) -> dict:
        if self.missing():
            return {"vbench": "missing"}
        weights = [sha256_once(cache_folder() / file) for file in self._dimension.cache]
        return {"vbench": package_version(self.python, "vbench"), "by": "package", "weights": weights}

    @property
    def footnotes(self) -> tuple[str, ...]:
        version = package_version(self.python, "vbench") if self.python else None
        return (f"{self._dimension.title}: the package VBench {version}; a mean over videos.",)

    def missing(self) -> str | None:
        if self.python is None:
            return f"VBench: install it in its own environment and pass --vbench-python or set ${VARIABLE}"
        if package_version(self.python, "vbench") is None:
            return f"the package vbench in {self.python}: docs/evaluation.md says how to install it"
        if self._dimension.non_commercial and not self.non_commercial:
            return f"consent: {self._dimension.non_commercial}; pass --non-commercial"
        for name, file in zip(self._dimension.weights, self._dimension.cache, strict=True):
            if not (cache_folder() / file).is_file():
                entry = registry()[name]
                return f"{cache_folder() / file}: fetch {entry.source}/{Path(entry.file).name}"
        if self.dimension == "subject_consistency" and not (cache_folder() / DINO_REPOSITORY).is_dir():
            return f"{cache_folder() / DINO_REPOSITORY}: git clone https://github.com/facebookresearch/dino"
        return None

    def score(self, sample: Sample) -> Scores | Declined:
        return self.score_batch([sample])[0]

    def score_batch(self, samples: Iterable[Sample]) -> list[Scores | Declined]:
        with tempfile.TemporaryDirectory(prefix="mvtrack-vbench-") as name:
            folder, count = Path(name), 0
            (folder / "videos").mkdir()
            for count, sample in enumerate(samples, 1):
                _place(sample, folder / "videos" / f"{count - 1:06d}.mp4")
            if not count:
                return []
            weights = [str(cache_folder() / file) for file in self._dimension.cache]
            job = {"dimension": self.dimension, "weights": weights}
            run_program(_WORKER, folder, job=job, python=self.python, timeout_s=_TIMEOUT_S)
            values = read_result(folder / _RESULT, self.dimension)
        scale, lost = self._dimension.per_video_scale, failed("VBench gave no value for this video")
        return [{self.dimension: values[f"{i:06d}"] * scale} if f"{i:06d}" in values else lost for i in range(count)]


def cache_folder() -> Path:
    """Where VBench looks for its weights."""
    return Path(os.environ.get("VBENCH_CACHE_DIR") or Path.home() / ".cache/vbench")


def read_result(path: Path, dimension: str) -> dict[str, float]:
    """Values by the stem of the video's name, from VBench's result file. ValueError when it is another file."""
    try:
        _, videos = json.loads(path.read_text())[dimension]
        return {Path(video["video_path"]).stem: float(video["video_results"]) for video in videos}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path.name} is not what VBench writes for {dimension}: {error!r}") from None


def _place(sample: Sample, path: Path) -> None:
    """The video's own file under a name that VBench reads; what is no mp4 is written anew without loss."""
    if sample.file is not None and sample.file.is_file() and sample.file.suffix.lower() == ".mp4":
        path.symlink_to(sample.file.resolve())
    else:
        write_video(path, sample.generated, sample.inputs.fps, lossless=True)
