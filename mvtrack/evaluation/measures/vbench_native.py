"""VBench's dimensions that this project computes itself, exactly: no package beside it, and the same weight files."""

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import cv2
import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor

from mvtrack.evaluation.interface import Column, Sample, Scores
from mvtrack.evaluation.measures.vbench_dimensions import DIMENSIONS
from mvtrack.evaluation.measures.weight_files import WeightFile, network_device
from mvtrack.metrics.frame_features import aesthetic_quality, background_consistency, subject_consistency
from mvtrack.metrics.temporal import temporal_flickering
from mvtrack.metrics.vision_transformer import (
    CLIP_B32,
    CLIP_L14,
    VisionTransformer,
    load_clip,
    load_dino,
    load_linear,
)
from mvtrack.video.writer import to_bytes

_VERSION = "0.1.5"  # of VBench, whose numbers these are


@dataclass(frozen=True)
class VBenchNative:
    """One dimension of `NATIVE`, named like VBench's because it gives VBench's number. folder: of the weights."""

    dimension: str
    folder: Path | None = None
    version: int = 1
    needs: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        return self.dimension

    @property
    def columns(self) -> tuple[Column, ...]:
        return (DIMENSIONS[self.dimension].column,)

    @property
    def settings(self) -> dict:
        return {"vbench": _VERSION, "by": "mvtrack", "weights": [w.sha256 for w in self._weights]}

    @property
    def footnotes(self) -> tuple[str, ...]:
        title = DIMENSIONS[self.dimension].title
        return (f"{title}: VBench {_VERSION}'s, computed by this project; a mean over videos.",)

    @property
    def _weights(self) -> list[WeightFile]:
        return [WeightFile.of(name, self.folder) for name in DIMENSIONS[self.dimension].weights]

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
    return torch.from_numpy(np.stack(frames)).permute(0, 3, 1, 2)  # (T, 3, H, W)


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


NATIVE = {
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
    return torch.from_numpy(to_bytes(sample.generated)).permute(0, 3, 1, 2)  # (T, 3, H, W)
