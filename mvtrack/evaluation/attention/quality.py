"""Do better aligned layers go with better pictures, and what do pictures lose without a layer? (CAMEO §3.2)"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor

from mvtrack.evaluation.attention.scenes import Subject, check_subject
from mvtrack.evaluation.measures.fidelity import perceptual_distance
from mvtrack.inference.sampler import SamplerOptions, generate
from mvtrack.inference.views.generate import generate_views
from mvtrack.metrics.correspondence import pearson
from mvtrack.metrics.image import psnr, ssim
from mvtrack.metrics.perceptual import Lpips
from mvtrack.models.conditioning import Window
from mvtrack.models.perturb import PERTURBATIONS, Perturbation, perturbed_attention
from mvtrack.models.reshoot_model import ReshootModel
from mvtrack.training.static_validation import StillCase

QUALITIES: dict[str, Callable[[Tensor, Tensor], float]] = {"psnr_db": psnr, "ssim": ssim}
LPIPS = "lpips"  # beside them where its weights are there; the only one of which less is better


def picture_quality(
    model: ReshootModel, clips: Sequence[Subject], sample: SamplerOptions, on_clip: Callable[[], None] | None = None,
    lpips: Lpips | None = None,
) -> dict[str, list[float]]:  # fmt: skip
    """Every clip's target view, or a still scene's missing views, generated anew and compared with the truth.

    Per name in `QUALITIES`, and for `lpips` where its network is given, one number a clip.

    Clip i is sampled with seed `sample.seed` + i.
    """
    measures = QUALITIES if lpips is None else QUALITIES | {LPIPS: partial(perceptual_distance, lpips)}
    found = {name: [] for name in measures}
    for i, clip in enumerate(clips):
        made, truth = _generate(model, clip, replace(sample, seed=sample.seed + i))
        for name, measure in measures.items():
            found[name].append(measure(made, truth))
        if on_clip:
            on_clip()
    return found


def _generate(
    model: ReshootModel, clip: Subject, sample: SamplerOptions
) -> tuple[Float[Tensor, "T 3 H W"], Float[Tensor, "T 3 H W"]]:
    """What the model makes, and the truth."""
    check_subject(model, clip)
    if isinstance(clip, StillCase):
        given, truth = clip.images[: clip.num_given], clip.images[clip.num_given :]
        return generate_views(model, given, clip.camera, sample, clip.clip.scene_depth).cpu(), truth
    if len(clip.video) != 2:
        raise ValueError(f"clip {clip.key} has {len(clip.video)} views: a reference and one target are needed")
    return generate(model, clip.video[0], Window(clip.camera, clip.scene_depth), sample).cpu(), clip.video[1]


@dataclass(frozen=True)
class Correlation:
    """Pearson's r with its two-sided p-value over `count` samples; NaN where one of both does not vary."""

    r: float
    p: float
    count: int


def correlate(errors: Float[Tensor, "samples layers"], quality: dict[str, list[float]]) -> dict[str, list[Correlation]]:
    """Per quality and layer: does a lower alignment error go with a better picture? Then r is positive (CAMEO's sign).

    Samples whose error is NaN are left out. Raises ValueError when fewer than three are left.
    """
    known = errors.isfinite().all(1)
    if int(known.sum()) < 3:
        raise ValueError(f"a correlation needs at least three samples, got {int(known.sum())} of {len(errors)} usable")
    found = {}
    for name, values in quality.items():
        better = torch.tensor(values, dtype=torch.float64)[known] * (-1 if name == LPIPS else 1)
        pairs = [pearson(-errors[known, layer].double(), better) for layer in range(errors.shape[1])]
        found[name] = [Correlation(r, p, int(known.sum())) for r, p in pairs]
    return found


@dataclass(frozen=True)
class Harm:
    """PSNR (dB) of each clip's generated view, undisturbed and with one layer's attention perturbed."""

    undisturbed_db: list[float]
    perturbed_db: dict[Perturbation, list[list[float]]]  # layer, clip

    def drop_db(self, kind: Perturbation) -> list[list[float]]:
        """By layer and clip: how much PSNR was lost."""
        return [
            [whole - hurt for whole, hurt in zip(self.undisturbed_db, row, strict=True)]
            for row in self.perturbed_db[kind]
        ]


def measure_harm(
    model: ReshootModel, clips: Sequence[Subject], sample: SamplerOptions, on_run: Callable[[], None] | None = None
) -> Harm:
    """Generate every clip once whole, then once per layer and perturbation, with the same noise each time.

    on_run: called after each of the len(clips) * (1 + 2 * layers) generations.
    """
    views = model.config.views.count if model.config.views else 2

    def score(i: int, clip: Subject) -> float:
        made, truth = _generate(model, clip, replace(sample, seed=sample.seed + i))
        if on_run:
            on_run()
        return psnr(made, truth)

    whole = [score(i, clip) for i, clip in enumerate(clips)]
    hurt: dict[Perturbation, list[list[float]]] = {kind: [] for kind in PERTURBATIONS}
    for kind, rows in hurt.items():
        for layer in range(model.config.num_layers):
            with perturbed_attention(model.dit, layer, kind, views):
                rows.append([score(i, clip) for i, clip in enumerate(clips)])
    return Harm(whole, hurt)
