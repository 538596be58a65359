"""MEt3R (Asim et al. 2025) itself: MASt3R and FeatUp by its authors' code, in an environment of its own."""

import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mvtrack.evaluation.interface import Column, Declined, Sample, Scores, failed, skipped
from mvtrack.evaluation.measures.dynamic_masks import DynamicMasks
from mvtrack.evaluation.measures.pair_networks import WORKERS, few_at_a_time, picture_name, write_videos
from mvtrack.inference.camera_estimation.job import has_module, package_identity, run_worker, write_frames
from mvtrack.metrics.warp_consistency import Pairing, frame_pairs

VARIABLE = "MVTRACK_MET3R_PYTHON"
_PACKAGES = ("met3r", "mast3r")  # which name the weights that they fetch
_PATCH = 16  # of MASt3R and DINO
_TIMEOUT_S = 6 * 3600.0


@dataclass(frozen=True)
class Met3r:
    """Mean over pairs at the pictures' own size; the dynamic score counts the masked part of the first picture."""

    python: Path | None = None
    pairing: Pairing = "same_time"
    masks: DynamicMasks = DynamicMasks()
    non_commercial: bool = False
    name: str = "met3r"
    version: int = 1
    columns: tuple[Column, ...] = (
        Column("met3r", "MEt3R", "lower"),
        Column("met3r_dynamic", "MEt3R dynamic", "lower"),
        Column("met3r_dynamic_share", "share compared, dynamic [MEt3R]", "none"),
    )
    needs: tuple[str, ...] = ()

    @property
    def settings(self) -> dict:
        packages = {n: None if self.missing() else package_identity(self.python, n) for n in _PACKAGES}
        return packages | {"pairing": self.pairing, "masks": self.masks.kind, "img_size": None}

    @property
    def footnotes(self) -> tuple[str, ...]:
        pairs = {
            "same_time": "reference and generated frame of one moment",
            "consecutive": "neighbouring generated frames",
        }
        return (
            f"MEt3R: its authors' code with MASt3R and FeatUp (DINO); pairs: {pairs[self.pairing]}, in this order, at "
            "the pictures' own size; mean over pairs.",
            f"MEt3R dynamic: the same distance where both are rendered and something moves in the first picture "
            f"({self.masks.footnote}); pairs without such a pixel are left out.",
        )

    def missing(self) -> str | None:
        if self.python is None:
            return f"MEt3R: install it in its own environment and pass --met3r-python or set ${VARIABLE}"
        if not has_module(self.python, "met3r"):
            return f"the package met3r in {self.python}"
        if not self.non_commercial:
            return "consent: MEt3R runs MASt3R, which is for non-commercial use (CC BY-NC-SA); pass --non-commercial"
        return None

    def files(self, method: str, key: str) -> list[Path]:
        return self.masks.files(method, key)

    def score(self, sample: Sample) -> Scores | Declined:
        return self.score_batch([sample])[0]

    def score_batch(self, samples: Iterable[Sample]) -> list[Scores | Declined]:
        return few_at_a_time(samples, self._score_together)

    def _score_together(self, samples: list[Sample]) -> list[Scores | Declined]:
        height, width = samples[0].generated.shape[-2:]
        if height % _PATCH or width % _PATCH:
            return [failed(f"MEt3R takes pictures whose sides {_PATCH} divides, got {height}x{width}")] * len(samples)
        with tempfile.TemporaryDirectory(prefix="mvtrack-met3r-") as name:
            folder, pairs, masks = Path(name), [], []
            for n, sample in enumerate(samples):
                write_videos(folder / str(n), sample)
                masks.append(self._write_masks(folder / str(n), sample))
                pairs += self._pairs(n, len(sample.generated), isinstance(masks[-1], Declined))
            try:
                found = run_worker(
                    str(WORKERS / "met3r_worker.py"), folder, job={"pairs": pairs}, python=self.python,
                    timeout_s=_TIMEOUT_S,
                )  # fmt: skip
            except ValueError as error:
                return [failed(str(error))] * len(samples)
        counts = [len(frame_pairs(len(s.generated), self.pairing)) for s in samples]
        parts = (np.split(found[name], np.cumsum(counts)[:-1]) for name in ("whole", "dynamic", "share"))
        return [_scores(*rows) for rows in zip(*parts, masks, strict=True)]

    def _pairs(self, n: int, num_frames: int, no_masks: bool) -> Iterator[list[str | None]]:
        view = 0 if self.pairing == "same_time" else 1
        for a, b in frame_pairs(num_frames, self.pairing):
            mask = None if no_masks else f"{n}/moving/frames/{a:05d}.png"
            yield [picture_name(n, (view, a)), picture_name(n, (1, b)), mask]

    def _write_masks(self, folder: Path, sample: Sample) -> Declined | None:
        """Masks of the first pictures of all pairs; why there are none."""
        wanted = "reference" if self.pairing == "same_time" else "generated"
        if self.masks.kind != wanted:
            return skipped(
                f"the first picture of a pair is a {wanted} one, the masks are of the {self.masks.kind} ones"
            )
        try:
            masks = self.masks.of(sample)
        except ValueError as error:
            return failed(str(error))
        if isinstance(masks, Declined):
            return masks
        white = masks.numpy().astype(np.uint8)[..., None].repeat(3, -1) * 255
        write_frames(folder / "moving", white)
        return None


def _scores(whole: np.ndarray, dynamic: np.ndarray, share: np.ndarray, no_masks: Declined | None) -> Scores:
    """Means over pairs of what is a number."""
    nothing = skipped("no pixel is rendered from both pictures of any pair")
    scores: Scores = {"met3r": float(np.nanmean(whole)) if np.isfinite(whole).any() else nothing}
    if no_masks is not None:
        return scores | {"met3r_dynamic": no_masks, "met3r_dynamic_share": no_masks}
    still = skipped("no dynamic pixel is rendered from both pictures of any pair")
    moving = float(np.nanmean(dynamic)) if np.isfinite(dynamic).any() else still
    return scores | {"met3r_dynamic": moving, "met3r_dynamic_share": float(share.mean())}
