"""Geometric consistency: do the generated and the reference picture of one moment show one scene?

MEt3R's scheme (Asim et al. 2025) with exchangeable parts, so it bears a name of its own:
`warp_consistency[geometry,features]`. `met3r.py` runs the original.
"""

import math
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import torch.nn.functional as F
from jaxtyping import Bool
from torch import Tensor

from mvtrack.evaluation.adapters import few_at_a_time
from mvtrack.evaluation.interface import BatchMetric, Column, Metric, Sample, Scores, Skipped, failed, skipped
from mvtrack.evaluation.measures.pair_features import DynamicMasks, PairFeatures
from mvtrack.evaluation.measures.pair_sources import Frame, PairSource, read_pairs
from mvtrack.metrics.warp_consistency import (
    HIDDEN,
    PairComparison,
    PairGeometry,
    Pairing,
    carried_mask,
    compare_pair,
    frame_pairs,
)

_NOTHING_SHARED = skipped("no pixel is seen by both pictures of any pair")
_NOTHING_MOVES = skipped("no dynamic pixel is seen by both pictures of any pair")
_PAIRS: dict[Pairing, str] = {
    "same_time": "the generated frame is carried into the reference frame of the same moment",
    "consecutive": "each generated frame is carried into the one before",
}


@dataclass(frozen=True)
class WarpConsistency(Metric):
    """The second picture of each pair is carried into the first by the pair's geometry and compared there.

    same_time: reference and generated frame of one moment; consecutive: neighbouring generated frames. The dynamic
    score counts only what moves. Means over pairs; pairs in which nothing is shared (or moves) are left out.
    """

    source: PairSource
    features: PairFeatures
    pairing: Pairing = "same_time"
    masks: DynamicMasks = DynamicMasks()

    @property
    def name(self) -> str:
        pairing = "" if self.pairing == "same_time" else f".{self.pairing}"
        return f"warp_consistency.{self.source.name}.{self.features.kind}{pairing}"

    @property
    def columns(self) -> tuple[Column, ...]:
        of = f"[{self.source.name},{self.features.kind}]{'' if self.pairing == 'same_time' else ' consecutive'}"
        return (
            Column(self.name, f"warp_consistency{of}", "lower"),
            Column(f"{self.name}.dynamic", f"warp_consistency{of} dynamic", "lower"),
            Column(f"{self.name}.share", f"share compared {of}", "none"),
            Column(f"{self.name}.dynamic_share", f"share compared, dynamic {of}", "none"),
        )

    @property
    def needs(self) -> tuple[str, ...]:
        return self.source.needs

    @property
    def settings(self) -> dict:
        return {
            "geometry": self.source.settings, "features": self.features.settings, "pairing": self.pairing,
            "masks": self.masks.kind, "hidden": HIDDEN,
        }  # fmt: skip

    @property
    def footnotes(self) -> tuple[str, ...]:
        return (
            f"{self.columns[0].title}: {_PAIRS[self.pairing]}; geometry: {self.source.footnote}; distance: "
            f"{self.features.footnote}; points more than {HIDDEN:.0%} behind the surface there are hidden. Not MEt3R.",
            f"Its dynamic score: {self.masks.footnote}; a mean over pairs in which something that moves is compared.",
        )

    def missing(self) -> str | None:
        return self.source.missing() or self.features.missing()

    def files(self, method: str, key: str) -> list[Path]:
        return [*self.source.files(method, key), *self.masks.files(method, key)]

    def score(self, sample: Sample) -> Scores | Skipped:
        frames = self.frames(len(sample.generated))
        return self.compared(sample, frames, self.source.pairs(sample, frames))

    def frames(self, num_frames: int) -> list[tuple[Frame, Frame]]:
        """The pairs of a video: which view and time is compared with which."""
        first = 0 if self.pairing == "same_time" else 1
        return [((first, a), (1, b)) for a, b in frame_pairs(num_frames, self.pairing)]

    def compared(
        self, sample: Sample, frames: list[tuple[Frame, Frame]], geometries: Iterable[PairGeometry]
    ) -> Scores | Skipped:
        """Scores of one sample, given the geometry of its pairs."""
        masks = self._masks(sample)
        whole, dynamic, share, dynamic_share = [], [], [], []
        for (first, second), geometry in zip(frames, geometries, strict=True):
            geometry = geometry.resized(self.features.grid(tuple(geometry.first.shape[:2])))
            comparison = self._compare(sample, first, second, geometry)
            whole.append(comparison.score())
            share.append(float(comparison.seen.double().mean()))
            if not isinstance(masks, Skipped):
                mask = self._mask(masks, first, second, geometry)
                dynamic.append(comparison.score(mask))
                dynamic_share.append(float((comparison.seen & mask).double().mean()))
        scores: Scores = {self.name: _mean(whole, _NOTHING_SHARED), f"{self.name}.share": _mean(share)}
        if isinstance(masks, Skipped):
            return scores | {f"{self.name}.dynamic": masks, f"{self.name}.dynamic_share": masks}
        return scores | {
            f"{self.name}.dynamic": _mean(dynamic, _NOTHING_MOVES),
            f"{self.name}.dynamic_share": _mean(dynamic_share),
        }

    def _compare(self, sample: Sample, first: Frame, second: Frame, geometry: PairGeometry) -> PairComparison:
        size = tuple(geometry.first.shape[:2])
        pictures = ((sample.inputs.reference, sample.generated)[view][time] for view, time in (first, second))
        carried = (self.features.of(picture, size) for picture in pictures)
        return compare_pair(*carried, geometry, self.features.distance)

    def _masks(self, sample: Sample) -> Bool[Tensor, "T H W"] | Skipped:
        if self.pairing == "consecutive" and self.masks.kind == "reference":
            return skipped("the masks are of the reference, which consecutive generated frames do not show")
        return self.masks.of(sample)

    def _mask(
        self, masks: Bool[Tensor, "T H W"], first: Frame, second: Frame, geometry: PairGeometry
    ) -> Bool[Tensor, "h w"]:
        """What moves, in the first picture of a pair."""
        size = tuple(geometry.first.shape[:2])
        if self.masks.kind == "reference" or self.pairing == "consecutive":
            return _nearest(masks[first[1]], size)
        return carried_mask(_nearest(masks[second[1]], size), geometry)


class NetworkWarpConsistency(WarpConsistency, BatchMetric):
    """Warp consistency with the geometry of a `PairNetwork`, loaded once for several videos."""

    def score_batch(self, samples: Iterable[Sample]) -> list[Scores | Skipped]:
        return few_at_a_time(samples, self._score_together)

    def _score_together(self, samples: list[Sample]) -> list[Scores | Skipped]:
        work = [(sample, self.frames(len(sample.generated))) for sample in samples]
        with tempfile.TemporaryDirectory(prefix="mvtrack-pairs-") as name:
            try:
                self.source.run(Path(name), work)
            except ValueError as error:
                return [failed(str(error))] * len(samples)
            return [self._one(Path(name), n, *one) for n, one in enumerate(work)]

    def _one(self, folder: Path, n: int, sample: Sample, frames: list[tuple[Frame, Frame]]) -> Scores | Skipped:
        try:
            return self.compared(sample, frames, read_pairs(folder, n, len(frames)))
        except ValueError as error:
            return failed(str(error))


def _nearest(mask: Bool[Tensor, "H W"], size: tuple[int, int]) -> Bool[Tensor, "h w"]:
    return F.interpolate(mask[None, None].float(), size, mode="nearest-exact")[0, 0] > 0.5


def _mean(values: list[float], otherwise: Skipped | None = None) -> float | Skipped:
    """Mean of what is a number."""
    there = [v for v in values if not math.isnan(v)]
    if not there and otherwise is not None:
        return otherwise
    return sum(there) / len(there)
