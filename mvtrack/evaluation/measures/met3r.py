"""MEt3R (Asim et al. 2025) itself: MASt3R and FeatUp by its authors' code, in an environment of its own."""

import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mvtrack.evaluation.adapters import external_program, few_at_a_time, picture_name, write_videos
from mvtrack.evaluation.interface import BatchMetric, Column, Sample, Scores, Skipped, failed, skipped
from mvtrack.evaluation.measures.pair_features import DynamicMasks
from mvtrack.inference.external_program import ExternalProgram, package_identity, write_frames
from mvtrack.metrics.warp_consistency import Pairing, frame_pairs

_PACKAGES = ("met3r", "mast3r")  # which name the weights that they fetch
_PATCH = 16  # of MASt3R and DINO
_PAIRS: dict[Pairing, str] = {
    "same_time": "reference and generated frame of one moment",
    "consecutive": "neighbouring generated frames",
}


@dataclass(frozen=True)
class Met3r(BatchMetric):
    """Mean over pairs at the pictures' own size; the dynamic score counts the masked part of the first picture."""

    python: Path | None = None
    pairing: Pairing = "same_time"
    masks: DynamicMasks = DynamicMasks()
    non_commercial: bool = False
    name = "met3r"
    columns = (
        Column("met3r", "MEt3R", "lower"),
        Column("met3r_dynamic", "MEt3R dynamic", "lower"),
        Column("met3r_dynamic_share", "share compared, dynamic [MEt3R]", "none"),
    )

    @property
    def _program(self) -> ExternalProgram:
        return external_program("met3r", self.python)

    @property
    def settings(self) -> dict:
        packages = {n: None if self.missing() else package_identity(self.python, n) for n in _PACKAGES}
        return packages | {"pairing": self.pairing, "masks": self.masks.kind, "img_size": None}

    @property
    def footnotes(self) -> tuple[str, ...]:
        return (
            f"MEt3R: its authors' code with MASt3R and FeatUp (DINO); pairs: {_PAIRS[self.pairing]}, in this order, at "
            "the pictures' own size; mean over pairs.",
            f"MEt3R dynamic: the same distance where both are rendered and something moves in the first picture "
            f"({self.masks.footnote}); pairs without such a pixel are left out.",
        )

    def missing(self) -> str | None:
        if (lacking := self._program.missing()) or self.non_commercial:
            return lacking
        return "consent: MEt3R runs MASt3R, which is for non-commercial use (CC BY-NC-SA); pass --non-commercial"

    def files(self, method: str, key: str) -> list[Path]:
        return self.masks.files(method, key)

    def score_batch(self, samples: Iterable[Sample]) -> list[Scores | Skipped]:
        return few_at_a_time(samples, self._score_together)

    def _score_together(self, samples: list[Sample]) -> list[Scores | Skipped]:
        height, width = samples[0].generated.shape[-2:]
        if height % _PATCH or width % _PATCH:
            return [failed(f"MEt3R takes pictures whose sides {_PATCH} divides, got {height}x{width}")] * len(samples)
        with tempfile.TemporaryDirectory(prefix="mvtrack-met3r-") as name:
            folder, pairs, unmasked = Path(name), [], []
            for n, sample in enumerate(samples):
                write_videos(folder / str(n), sample)
                unmasked.append(self._write_masks(folder / str(n), sample))
                pairs += self._pairs(n, len(sample.generated), unmasked[-1] is None)
            try:
                found = self._program.run(folder, job={"pairs": pairs})
            except ValueError as error:
                return [failed(str(error))] * len(samples)
        counts = [len(frame_pairs(len(s.generated), self.pairing)) for s in samples]
        parts = (np.split(found[name], np.cumsum(counts)[:-1]) for name in ("whole", "dynamic", "share"))
        return [_scores(*rows) for rows in zip(*parts, unmasked, strict=True)]

    def _pairs(self, n: int, num_frames: int, is_masked: bool) -> Iterator[list[str | None]]:
        view = 0 if self.pairing == "same_time" else 1
        for a, b in frame_pairs(num_frames, self.pairing):
            mask = f"{n}/moving/frames/{a:05d}.png" if is_masked else None
            yield [picture_name(n, view, a), picture_name(n, 1, b), mask]

    def _write_masks(self, folder: Path, sample: Sample) -> Skipped | None:
        """Masks of the first pictures of all pairs; why there are none."""
        wanted = "reference" if self.pairing == "same_time" else "generated"
        if self.masks.kind != wanted:
            return skipped(
                f"the first picture of a pair is a {wanted} one, the masks are of the {self.masks.kind} ones"
            )
        masks = self.masks.of(sample)
        if isinstance(masks, Skipped):
            return masks
        write_frames(folder / "moving", masks.numpy().astype(np.uint8)[..., None].repeat(3, -1) * 255)
        return None


def _scores(whole: np.ndarray, dynamic: np.ndarray, share: np.ndarray, unmasked: Skipped | None) -> Scores:
    """Means over pairs of what is a number. unmasked: why there are no masks."""
    nothing = skipped("no pixel is rendered from both pictures of any pair")
    scores: Scores = {"met3r": float(np.nanmean(whole)) if np.isfinite(whole).any() else nothing}
    if unmasked is not None:
        return scores | {"met3r_dynamic": unmasked, "met3r_dynamic_share": unmasked}
    still = skipped("no dynamic pixel is rendered from both pictures of any pair")
    moving = float(np.nanmean(dynamic)) if np.isfinite(dynamic).any() else still
    return scores | {"met3r_dynamic": moving, "met3r_dynamic_share": float(share.mean())}
