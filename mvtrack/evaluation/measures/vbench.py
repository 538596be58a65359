"""VBench's dimensions that the paper reports: by the official package in its own environment, and, where this project
computes VBench's very number, natively from the same weight files."""

import json
import os
import tempfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import cv2
import numpy as np
import torch
from einops import rearrange
from jaxtyping import UInt8
from torch import Tensor

from mvtrack.evaluation.adapters import external_program
from mvtrack.evaluation.interface import BatchMetric, Column, Metric, Sample, Scores, Skipped, failed
from mvtrack.evaluation.measures.weight_files import WeightFile, network_device
from mvtrack.files.cache import sha256_once
from mvtrack.inference.external_program import ExternalProgram, package_version
from mvtrack.metrics.vbench import aesthetic_quality, background_consistency, subject_consistency, temporal_flickering
from mvtrack.metrics.vision_transformer import CLIP_B32, CLIP_L14, VisionTransformer, load_clip, load_dino, load_linear
from mvtrack.models.weights.registry import registry
from mvtrack.video.writer import to_bytes, write_video

DINO_REPOSITORY = "dino_model/facebookresearch_dino_main"  # VBench takes DINO's code from a clone in its cache
_VERSION = "0.1.5"  # of VBench, whose numbers the native ones are
_RESULT = "result_eval_results.json"


@dataclass(frozen=True)
class Dimension:
    """key: VBench's own name. weights: names in the registry, and where VBench looks for each under its cache folder.
    per_video_scale: what brings its values of single videos to its total's range."""

    key: str
    title: str
    weights: tuple[tuple[str, str], ...] = ()
    per_video_scale: float = 1.0
    non_commercial: str | None = None

    @property
    def columns(self) -> tuple[Column, ...]:
        return (Column(self.key, self.title, "higher"),)


_ALL = (
    Dimension(
        "subject_consistency", "Subject consistency", (("dino_vitb16", "dino_model/dino_vitbase16_pretrain.pth"),)
    ),
    Dimension("background_consistency", "Background consistency", (("clip_vit_b32", "clip_model/ViT-B-32.pt"),)),
    Dimension(
        "aesthetic_quality",
        "Aesthetic quality",
        (
            ("clip_vit_l14", "clip_model/ViT-L-14.pt"),
            ("laion_aesthetic", "aesthetic_model/emb_reader/sa_0_4_vit_l_14_linear.pth"),
        ),
    ),
    Dimension(
        "imaging_quality",
        "Imaging quality",
        (("musiq_spaq", "pyiqa_model/musiq_spaq_ckpt-358bb6af.pth"),),
        0.01,
        "MUSIQ comes through pyiqa, which is for non-commercial use",
    ),
    Dimension("temporal_flickering", "Temporal flickering"),
    Dimension(
        "motion_smoothness",
        "Motion smoothness",
        (("amt_s", "amt_model/amt-s.pth"),),
        non_commercial="AMT's weights are for non-commercial use",
    ),
)
DIMENSIONS: dict[str, Dimension] = {d.key: d for d in _ALL}


@dataclass(frozen=True)
class VBenchNative(Metric):
    """One dimension of `NATIVE`, named like VBench's because it gives VBench's number. folder: of the weights."""

    dimension: str
    folder: Path | None = None

    @property
    def name(self) -> str:
        return self.dimension

    @property
    def columns(self) -> tuple[Column, ...]:
        return DIMENSIONS[self.dimension].columns

    @property
    def settings(self) -> dict:
        return {"vbench": _VERSION, "by": "mvtrack", "weights": [w.sha256 for w in self._weights]}

    @property
    def footnotes(self) -> tuple[str, ...]:
        title = DIMENSIONS[self.dimension].title
        return (f"{title}: VBench {_VERSION}'s, computed by this project; a mean over videos.",)

    @property
    def _weights(self) -> list[WeightFile]:
        return [WeightFile.of(name, self.folder) for name, _ in DIMENSIONS[self.dimension].weights]

    def missing(self) -> str | None:
        return next((lacking for w in self._weights if (lacking := w.missing())), None)

    def score(self, sample: Sample) -> Scores:
        return {self.dimension: NATIVE[self.dimension](sample, [w.path for w in self._weights])}


def decoded_by_opencv(path: Path, num_frames: int) -> UInt8[Tensor, "T 3 H W"]:
    """A video's frames (BGR), read as VBench reads them for flickering. ValueError when OpenCV finds another number."""
    frames, video = [], cv2.VideoCapture(str(path))
    while len(frames) <= num_frames and (read := video.read())[0]:
        frames.append(read[1])
    video.release()
    if len(frames) != num_frames:
        raise ValueError(f"{path}: OpenCV, which VBench reads videos with, finds {len(frames)} of {num_frames} frames")
    return rearrange(torch.from_numpy(np.stack(frames)), "t h w c -> t c h w")


def _flickering(sample: Sample, weights: list[Path]) -> float:
    if sample.file is None or not sample.file.is_file():
        return temporal_flickering(_bytes(sample))
    return temporal_flickering(decoded_by_opencv(sample.file, len(sample.generated)))


def _subject(sample: Sample, weights: list[Path]) -> float:
    return subject_consistency(_bytes(sample), _network("subject_consistency", *weights))


def _background(sample: Sample, weights: list[Path]) -> float:
    return background_consistency(_bytes(sample), _network("background_consistency", *weights))


def _aesthetic(sample: Sample, weights: list[Path]) -> float:
    clip, head = weights
    return aesthetic_quality(_bytes(sample), _network("aesthetic_quality", clip), *load_linear(head, 768))


NATIVE: dict[str, Callable[[Sample, list[Path]], float]] = {
    "temporal_flickering": _flickering,
    "subject_consistency": _subject,
    "background_consistency": _background,
    "aesthetic_quality": _aesthetic,
}


@lru_cache(maxsize=3)
def _network(dimension: str, file: Path) -> VisionTransformer:
    if dimension == "subject_consistency":
        model = load_dino(file)
    else:
        model = load_clip(file, CLIP_B32 if dimension == "background_consistency" else CLIP_L14)
    return model.to(network_device())


def _bytes(sample: Sample) -> UInt8[Tensor, "T 3 H W"]:
    return rearrange(torch.from_numpy(to_bytes(sample.generated)), "t h w c -> t c h w")


@dataclass(frozen=True)
class VBenchPackage(BatchMetric):
    """One dimension by the package, which `python` has. non_commercial: whether what is for non-commercial use only
    may be run."""

    dimension: str
    python: Path | None = None
    non_commercial: bool = False

    @property
    def name(self) -> str:
        return f"vbench_{self.dimension}"

    @property
    def columns(self) -> tuple[Column, ...]:
        return self._dimension.columns

    @property
    def _dimension(self) -> Dimension:
        return DIMENSIONS[self.dimension]

    @property
    def _program(self) -> ExternalProgram:
        return external_program("vbench", self.python)

    @property
    def _weights(self) -> dict[str, Path]:
        return {name: cache_folder() / file for name, file in self._dimension.weights}

    @property
    def settings(self) -> dict:
        if self.missing():
            return {"vbench": "missing"}
        weights = [sha256_once(file) for file in self._weights.values()]
        return {"vbench": package_version(self.python, "vbench"), "by": "package", "weights": weights}

    @property
    def footnotes(self) -> tuple[str, ...]:
        version = package_version(self.python, "vbench") if self.python else None
        return (f"{self._dimension.title}: the package VBench {version}; a mean over videos.",)

    def missing(self) -> str | None:
        if lacking := self._program.missing():
            return lacking
        if self._dimension.non_commercial and not self.non_commercial:
            return f"consent: {self._dimension.non_commercial}; pass --non-commercial"
        for name, file in self._weights.items():
            if not file.is_file():
                entry = registry()[name]
                return f"{file}: fetch {entry.source}/{Path(entry.file).name}"
        if self.dimension == "subject_consistency" and not (cache_folder() / DINO_REPOSITORY).is_dir():
            return f"{cache_folder() / DINO_REPOSITORY}: git clone https://github.com/facebookresearch/dino"
        return None

    def score_batch(self, samples: Iterable[Sample]) -> list[Scores | Skipped]:
        with tempfile.TemporaryDirectory(prefix="mvtrack-vbench-") as name:
            folder, count = Path(name), 0
            (folder / "videos").mkdir()
            for count, sample in enumerate(samples, 1):
                _place(sample, folder / "videos" / f"{count - 1:06d}.mp4")
            if not count:
                return []
            job = {"dimension": self.dimension, "weights": [str(file) for file in self._weights.values()]}
            self._program.run(folder, job=job, result=None)
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
