"""How alignment grows in training, over several checkpoints, and whether the pictures follow (CAMEO §3.2, C.1-C.2)."""

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from mvtrack.config.model import ModelConfig
from mvtrack.evaluation.attention.analysis import Analysis
from mvtrack.evaluation.attention.quality import Correlation, correlate
from mvtrack.evaluation.attention.report import correlation_record
from mvtrack.evaluation.plots import Curves, draw_curves
from mvtrack.evaluation.tables import markdown_table


@dataclass(frozen=True)
class Stage:
    """One model of several. step: of its training, None where not known. quality: of its pictures, where made."""

    name: str
    step: int | None
    analysis: Analysis
    quality: dict[str, list[float]] | None = None

    @property
    def errors(self) -> np.ndarray:
        """Cross-view alignment error by layer, nats."""
        return self.analysis.table("cross_view", "alignment_error").mean(1).numpy()

    @property
    def pck(self) -> np.ndarray:
        """Cross-view PCK by layer."""
        return self.analysis.table("cross_view", "pck").mean(1).numpy()


def check_comparable(configs: dict[str, ModelConfig]) -> None:
    """Raises ValueError, naming the models, unless layer i of one can be compared with layer i of the others."""
    (first, one), *others = configs.items()
    for name, other in others:
        if (one.views is None) != (other.views is None):
            still, moving = (name, first) if one.views is None else (first, name)
            raise ValueError(f"{still} makes views of still scenes, {moving} re-shoots videos: analyse them apart")
        depths = one.num_layers, other.num_layers
        if depths[0] != depths[1]:
            raise ValueError(
                f"{first} has {depths[0]} layers, {name} has {depths[1]}: models that are compared layer by layer must "
                "have the same number; analyse them apart"
            )


def over_models(stages: list[Stage]) -> dict[str, list[Correlation]] | None:
    """Pearson's r between the models' alignment errors and the mean quality of their pictures, by quality and layer.

    None for fewer than three models, or without pictures.
    """
    if len(stages) < 3 or any(stage.quality is None for stage in stages):
        return None
    errors = torch.tensor(np.stack([stage.errors for stage in stages]))
    quality = {name: [float(np.mean(stage.quality[name])) for stage in stages] for name in stages[0].quality}
    return correlate(errors, quality)


def growth_record(stages: list[Stage]) -> dict:
    """Per model and layer: cross-view alignment error and PCK; over models: the correlation with picture quality."""
    found = over_models(stages)
    return {
        "models": [
            {
                "name": stage.name,
                "step": stage.step,
                "cross_view_alignment_error": stage.errors.round(5).tolist(),
                "cross_view_pck": stage.pck.round(5).tolist(),
                "quality": None if stage.quality is None else {n: float(np.mean(v)) for n, v in stage.quality.items()},
            }
            for stage in stages
        ],
        "correlation_over_models": None if found is None else correlation_record(found),
    }


def growth_table(stages: list[Stage]) -> str:
    """A Markdown table: cross-view alignment error (nats) and PCK of every layer, one row a model."""
    layers = range(len(stages[0].errors))
    rows = []
    for stage in stages:
        cells = [f"{e:.3f} / {100 * p:.1f} %" for e, p in zip(stage.errors, stage.pck, strict=True)]
        rows.append([stage.name, "" if stage.step is None else str(stage.step), *cells])
    return markdown_table(["model", "step", *(f"layer {i}" for i in layers)], rows)


def write_growth(path: Path, stages: list[Stage]) -> None:
    """A PNG: cross-view alignment error and PCK of each layer, by training step, or in the order given.

    Where pictures of at least three clips were made, also how r between error and PSNR over the clips develops.
    """
    steps = [stage.step for stage in stages]
    by_step = None not in steps and len(set(steps)) == len(steps)
    order = np.argsort(steps).tolist() if by_step else list(range(len(stages)))
    stages = [stages[i] for i in order]
    x, x_name = (
        ([s.step for s in stages], "training step") if by_step else (list(range(len(stages))), "model, in order")
    )
    panels = [
        Curves("alignment error across views", x, np.stack([s.errors for s in stages], 1), x_name, "nats"),
        Curves("matches across views", x, np.stack([s.pck for s in stages], 1), x_name, "PCK with cycle check"),
    ]
    if all(stage.quality is not None and len(stage.quality["psnr_db"]) >= 3 for stage in stages):
        found = [correlate(s.analysis.alignment_error_per_clip(), s.quality)["psnr_db"] for s in stages]
        r = np.array([[math.nan if c is None else c.r for c in layers] for layers in found]).T
        panels.append(Curves("low error and high PSNR, over clips", x, r, x_name, "Pearson's r"))
    draw_curves(path, panels)
