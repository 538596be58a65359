"""What moves: the benchmark's masks of the reference, or masks that another program made of the generated videos."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import torch
from jaxtyping import Bool
from torch import Tensor

from mvtrack.evaluation.benchmarks.pictures import read_arrays
from mvtrack.evaluation.interface import Declined, Sample, skipped

MaskKind = Literal["reference", "generated"]
MASK_KINDS: tuple[MaskKind, ...] = get_args(MaskKind)


@dataclass(frozen=True)
class DynamicMasks:
    """kind: whose pixels the masks are of. folder: of generated masks, <row>/<case>.npz with `mask` (T, H, W)."""

    kind: MaskKind = "reference"
    folder: Path | None = None

    @property
    def footnote(self) -> str:
        return {
            "reference": "the benchmark's masks, in the reference's pixels",
            "generated": "masks of the generated videos, made by another program",
        }[self.kind]

    def files(self, method: str, key: str) -> list[Path]:
        path = self._path(method, key)
        return [path] if path is not None and path.is_file() else []

    def of(self, sample: Sample) -> Bool[Tensor, "T H W"] | Declined:
        """Masks of all frames. ValueError for a file that does not fit."""
        if self.kind == "reference":
            return sample.inputs.why_missing("dynamic") or sample.inputs.dynamic
        path = self._path(sample.method, sample.inputs.key)
        if path is None:
            return skipped("missing masks of the generated videos: pass their folder as --generated-masks")
        [mask] = read_arrays(path, "mask")
        expected = (len(sample.generated), *sample.generated.shape[-2:])
        if mask.shape != expected:
            raise ValueError(f"{path} holds a mask of {mask.shape}, expected {expected} (T, H, W)")
        return torch.from_numpy(mask > 0)

    def _path(self, method: str, key: str) -> Path | None:
        return None if self.folder is None else self.folder / method / f"{key}.npz"
