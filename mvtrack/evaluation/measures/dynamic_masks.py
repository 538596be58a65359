"""What moves: the benchmark's masks of the reference, or masks that another program made of the generated videos."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import torch
from jaxtyping import Bool
from torch import Tensor

from mvtrack.evaluation.benchmarks.pictures import read_arrays
from mvtrack.evaluation.interface import Sample, Skipped, failed, skipped

MaskKind = Literal["reference", "generated"]
MASK_KINDS: tuple[MaskKind, ...] = get_args(MaskKind)
_FOOTNOTES: dict[MaskKind, str] = {
    "reference": "the benchmark's masks, in the reference's pixels",
    "generated": "masks of the generated videos, made by another program",
}


@dataclass(frozen=True)
class DynamicMasks:
    """kind: whose pixels the masks are of. folder: of generated masks, <row>/<case>.npz with `mask` (T, H, W)."""

    kind: MaskKind = "reference"
    folder: Path | None = None

    @property
    def footnote(self) -> str:
        return _FOOTNOTES[self.kind]

    def files(self, method: str, key: str) -> list[Path]:
        path = None if self.kind == "reference" or self.folder is None else self.folder / method / f"{key}.npz"
        return [path] if path is not None and path.is_file() else []

    def of(self, sample: Sample) -> Bool[Tensor, "T H W"] | Skipped:
        """Masks of all frames; failed for a file that does not fit."""
        if self.kind == "reference":
            return sample.inputs.why_missing("dynamic") or sample.inputs.dynamic
        if self.folder is None:
            return skipped("missing masks of the generated videos: set consistency.generated_masks")
        path = self.folder / sample.method / f"{sample.inputs.key}.npz"
        try:
            [mask] = read_arrays(path, "mask")
        except ValueError as error:
            return failed(str(error))
        expected = (len(sample.generated), *sample.generated.shape[-2:])
        if mask.shape != expected:
            return failed(f"{path} holds a mask of {mask.shape}, expected {expected} (T, H, W)")
        return torch.from_numpy(mask > 0)
