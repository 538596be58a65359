"""Pictures and masks of a benchmark, at the benchmark's size, all through one `Fit`."""

from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from mvtrack.config.sizes import FitMode
from mvtrack.evaluation.interface import Benchmark
from mvtrack.video.images import ImageVideo
from mvtrack.video.resize import Fit, fit_to

MINIATURE_FILE = "rendered_miniature.txt"  # stands in the folder of data that this project rendered


class BenchmarkOnDisk(Benchmark):
    """root: its folder. fit: how pictures meet the benchmark's size."""

    root: Path
    fit: FitMode

    @property
    def is_miniature(self) -> bool:
        return (self.root / MINIATURE_FILE).is_file()

    @property
    def fitted(self) -> str:
        """How pictures were brought to the size, in words."""
        how = {"crop": "scaled and cropped evenly to", "pad": "scaled and padded to", "stretch": "stretched to"}
        return f"{how[self.fit]} {self.size[0]}x{self.size[1]}"

    def frames(self, files: list[Path]) -> tuple[Float[Tensor, "T 3 H W"], Fit]:
        return read_frames(files, self.size, self.fit)


def mark_miniature(root: Path) -> None:
    """Say in a folder that its data was rendered, for readers and for reports."""
    root.mkdir(parents=True, exist_ok=True)
    (root / MINIATURE_FILE).write_text("Rendered by mvtrack in a benchmark's layout: none of the benchmark's data.\n")


def read_frames(files: list[Path], size: tuple[int, int], mode: str) -> tuple[Float[Tensor, "T 3 H W"], Fit]:
    """Image files as a video of `size` in [-1, 1], and how they met it. ValueError names a file that is no image."""
    footage = ImageVideo.of(files[0].parent, files, 24.0)
    fit = fit_to(footage.size, size, mode)
    return fit.apply(footage.read(0, len(files), fit.scaled)), fit


def fit_masks(masks: Bool[np.ndarray, "T h w"], size: tuple[int, int], mode: str) -> Bool[Tensor, "T H W"]:
    """Masks of any resolution at the benchmark's size, nearest pixel; what was padded is not in the mask."""
    return fit_to(masks.shape[1:], size, mode).nearest(torch.from_numpy(masks))
