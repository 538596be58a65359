"""The pinned set at full resolution: the model sees it small, the result is scored at the source's own size."""

from dataclasses import dataclass, replace
from pathlib import Path

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from mvtrack.data.clip import Clip, resize_frames
from mvtrack.data.synthetic.test_scenes import CaseSpec, render_case
from mvtrack.evaluation.manifest import FootageSpec, footage_clip
from mvtrack.evaluation.tables import markdown_table, met_targets, targets_table
from mvtrack.geometry.warp import covisible
from mvtrack.inference.full_resolution.clip import refined_clip
from mvtrack.inference.full_resolution.geometry import FileGeometry, GeometrySource, LearnedGeometry
from mvtrack.inference.sampler import SamplerOptions, generate
from mvtrack.metrics.image import gradient_energy, psnr
from mvtrack.models.conditioning import Window
from mvtrack.models.refiner.files import Refiner
from mvtrack.models.reshoot_model import ReshootModel

FOOTAGE = "footage"  # pan-tilt-zoom cuts of real videos
CLASSES = ("rotation", "small", "large", FOOTAGE)
_ROTATION, _LARGE = 1e-3, 0.15  # largest distance of both cameras, in distances of the subject


@dataclass(frozen=True)
class FullCase:
    """A case at full size, and what the model made of it small. distance: of the subject."""

    clip: Clip
    small: Float[Tensor, "T 3 h w"]
    seen: Bool[Tensor, "T H W"]
    rendered: bool = True

    @property
    def distance(self) -> float:
        return float(self.clip.depth[0, 0].median())

    @property
    def kind(self) -> str:
        """Which class a case belongs to."""
        if not self.rendered:
            return FOOTAGE
        centres = self.clip.camera.c2w[..., :3, 3]
        baseline = float((centres[1] - centres[0]).norm(dim=-1).max()) / self.distance
        return "rotation" if baseline < _ROTATION else "large" if baseline >= _LARGE else "small"


def full_case(spec: CaseSpec, resolution: int, model: ReshootModel, sample: SamplerOptions) -> FullCase | None:
    """Render a case larger and let the model re-shoot it at its pinned size; None where a camera is below ground."""
    clip = render_case(replace(spec, size=_enlarged(spec.size, resolution))).clip
    return _generated(clip, spec.size, model, sample) if (clip.depth > 0).all() else None


def footage_case(
    spec: FootageSpec, resolution: int, folder: Path, model: ReshootModel, sample: SamplerOptions
) -> FullCase:
    """Cut a pan-tilt-zoom case out of its video larger, and let the model re-shoot it at its pinned size."""
    clip = footage_clip(replace(spec, size=_enlarged(spec.size, resolution)), folder)
    return replace(_generated(clip, spec.size, model, sample), rendered=False)


def _enlarged(size: tuple[int, int], shorter: int) -> tuple[int, int]:
    return tuple(n * shorter // min(size) for n in size)


def _generated(clip: Clip, size: tuple[int, int], model: ReshootModel, sample: SamplerOptions) -> FullCase:
    reference = resize_frames(clip.video[0], size)
    small = generate(model, reference, Window(clip.camera.resized(size), clip.scene_depth), sample)
    return FullCase(clip, small, covisible(clip.depth[1], clip.depth[0], clip.camera[1], clip.camera[0]))


def refine(case: FullCase, refiner: Refiner, geometry: GeometrySource) -> Float[Tensor, "T 3 H W"]:
    """The case's result at full size."""
    clip = case.clip
    return refined_clip(refiner.blend, geometry, clip.video[0], clip.camera, case.distance, case.small)


def score(case: FullCase, refiner: Refiner) -> dict[str, float]:
    """PSNR of whole pictures and of what both views see, sharpness and flicker over the truth's, by method."""
    source, truth = case.clip.video
    size, small = truth.shape[-2:], tuple(case.small.shape[-2:])
    learned = LearnedGeometry(refiner.depth, motion_known=True)
    exact = FileGeometry(lambda t: case.clip.depth[0, t], case.distance, "true depth")
    videos = {
        "copy": source,
        "bicubic": torch.nn.functional.interpolate(case.small, size, mode="bicubic", align_corners=False),
        "refined": refine(case, refiner, learned),
        "true_depth": refine(case, refiner, exact),
    }
    numbers = {
        "seen_share": float(case.seen.float().mean()),
        "model_size_db": psnr(case.small, resize_frames(truth, small)),
    }
    for name, video in videos.items():
        numbers[f"{name}_db"] = psnr(video, truth)
        numbers[f"{name}_co_visible_db"] = psnr(video, truth, case.seen)
        numbers[f"{name}_unseen_db"] = psnr(video, truth, ~case.seen) if not case.seen.all() else float("nan")
        numbers[f"{name}_gradient_energy"] = gradient_energy(video) / gradient_energy(truth)
        numbers[f"{name}_flicker"] = flicker(video) / flicker(truth)
    return numbers


def flicker(video: Float[Tensor, "T 3 H W"]) -> float:
    """Mean absolute second difference over time: motion that goes on counts little, what comes and goes counts."""
    return float(video.clamp(-1, 1).diff(n=2, dim=0).abs().mean())


TARGETS = {
    "rotation, co-visible dB": ("rotation", "refined_co_visible_db", 40.0),
    "small, co-visible dB": ("small", "refined_co_visible_db", 31.0),
    "large, co-visible dB": ("large", "refined_co_visible_db", 26.0),
    "footage, co-visible dB": (FOOTAGE, "refined_co_visible_db", 36.0),
    "footage, whole picture, dB": (FOOTAGE, "refined_db", 24.0),
}


def summarise_full(scores: dict[str, tuple[str, dict[str, float]]]) -> dict:
    """Means by class and over all that is rendered, and which targets are met. scores: class and numbers of a case."""
    groups = {kind: [n for k, n in scores.values() if k == kind] for kind in CLASSES}
    groups["all"] = [numbers for kind, numbers in scores.values() if kind != FOOTAGE]
    means = {
        kind: {"count": len(rows)} | {name: _mean([row[name] for row in rows]) for name in rows[0]}
        for kind, rows in groups.items()
        if rows
    }
    every = means["all"]
    reached = {
        target: (means[kind][name], ">=", least) for target, (kind, name, least) in TARGETS.items() if kind in means
    }
    reached |= {
        "whole picture, dB": (every["refined_db"], ">=", 25.0),
        "with true depth, co-visible dB": (every["true_depth_co_visible_db"], ">=", 36.0),
        "gradient energy over the truth's": (every["refined_gradient_energy"], "in", (0.85, 1.1)),
        "flicker over the truth's": (every["refined_flicker"], "<=", 1.1),
    }
    rows = met_targets(reached)
    co_visible = {kind: round(means[kind]["refined_co_visible_db"], 2) for kind in CLASSES if kind in means}
    return {"means": means, "targets": rows, "met": all(r["met"] for r in rows.values()), "co_visible": co_visible}


def full_table(summary: dict) -> str:
    """Markdown: PSNR by class and method, then the targets."""
    methods, parts = ("copy", "bicubic", "refined", "true_depth"), ("", "_co_visible", "_unseen")
    rows = [
        [f"{kind} ({row['count']})", *(" / ".join(f"{row[f'{m}{part}_db']:.2f}" for part in parts) for m in methods)]
        for kind, row in summary["means"].items()
    ]
    table = markdown_table(["scenes", *(f"{m}: whole / co-visible / unseen" for m in methods)], rows)
    return f"{table}\n\n{targets_table(summary['targets'])}"


def _mean(values: list[float]) -> float:
    known = [value for value in values if value == value]  # not NaN: cases that hide nothing
    return sum(known) / len(known) if known else float("nan")
