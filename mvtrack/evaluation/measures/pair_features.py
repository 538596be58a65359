"""What is compared between two pictures of which one is carried onto the other, colours or features; and what moves."""

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from mvtrack.data.clip import resize_frames
from mvtrack.data.public.files import read_arrays
from mvtrack.evaluation.interface import Sample, Skipped, failed, skipped
from mvtrack.evaluation.measures.weight_files import WeightFile, network_device
from mvtrack.metrics.vbench import IMAGENET
from mvtrack.metrics.vision_transformer import VisionTransformer, load_dino
from mvtrack.metrics.warp_consistency import Distance, colours

MaskKind = Literal["reference", "generated"]
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


FeatureKind = Literal["colours", "dino"]
FEATURE_KINDS: tuple[FeatureKind, ...] = get_args(FeatureKind)
_NARROW = 128  # pixels of the shorter side at which 768 channels are compared, at most


@dataclass(frozen=True)
class PairFeatures:
    """colours: RGB by mean absolute difference. dino: DINO ViT-B/16's patches, bilinear between them, by cosine."""

    kind: FeatureKind
    folder: Path | None = None

    @property
    def distance(self) -> Distance:
        return "l1" if self.kind == "colours" else "cosine"

    @property
    def settings(self) -> dict:
        plain = {"kind": self.kind, "distance": self.distance}
        return plain if self.kind == "colours" else plain | {"weights": self._weights.sha256, "narrow": _NARROW}

    @property
    def footnote(self) -> str:
        return {
            "colours": "mean absolute difference of RGB in [0, 1]",
            "dino": "one minus the cosine of DINO ViT-B/16 patch features, bilinear between patches",
        }[self.kind]

    @property
    def _weights(self) -> WeightFile:
        return WeightFile.of("dino_vitb16", self.folder)

    def missing(self) -> str | None:
        return None if self.kind == "colours" else self._weights.missing()

    def grid(self, size: tuple[int, int]) -> tuple[int, int]:
        """The resolution at which pictures whose geometry is of `size` are compared."""
        step = 1 if self.kind == "colours" else max(1, -(-min(size) // _NARROW))
        return size[0] // step, size[1] // step

    def of(self, picture: Float[Tensor, "3 H W"], size: tuple[int, int]) -> Float[Tensor, "C h w"]:
        """Features of a picture in [-1, 1] on a grid of `size`."""
        if self.kind == "colours":
            return colours(resize_frames(picture[None], size))[0]
        network = _dino(self._weights.path)
        device, patch = next(network.parameters()).device, network.config.patch
        tokens = [max(1, round(side / patch)) * patch for side in picture.shape[-2:]]
        image = F.interpolate((picture[None].clamp(-1, 1) + 1) / 2, tokens, mode="bilinear", align_corners=False)
        mean, spread = (image.new_tensor(values)[:, None, None] for values in IMAGENET)
        with torch.no_grad():
            found = network.feature_map(((image - mean) / spread).to(device)).cpu()
        return F.interpolate(found, size, mode="bilinear", align_corners=False)[0]


@lru_cache(maxsize=1)
def _dino(file: Path) -> VisionTransformer:
    return load_dino(file).to(network_device())
