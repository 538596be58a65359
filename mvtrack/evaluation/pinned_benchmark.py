"""The pinned benchmark: a model on the pinned set, every baseline beside it (docs/evaluation.md)."""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from tqdm import tqdm

from mvtrack.data.clip import Clip
from mvtrack.data.synthetic.test_scenes import render_case
from mvtrack.evaluation.manifest import Manifest, footage_clip
from mvtrack.evaluation.tables import mean_interval, met_targets
from mvtrack.geometry.camera import Camera, relative_pose
from mvtrack.geometry.warp import covisible, depth_warp
from mvtrack.inference.sampler import SamplerOptions, generate
from mvtrack.metrics.image import gaussian_blur, gradient_energy, psnr
from mvtrack.metrics.motion import measure_turn
from mvtrack.models.conditioning import Window
from mvtrack.models.reshoot_model import ReshootModel

BLUR_SIGMAS_PX = (1.0, 1.5, 2.0, 3.0, 4.0, 6.0)


@dataclass(frozen=True)
class Scored:
    """One case: its clip, what the model made of it, and numbers by name."""

    clip: Clip
    made: Float[Tensor, "T 3 H W"]
    mirrored: Float[Tensor, "T 3 H W"]
    numbers: dict[str, float]


@dataclass(frozen=True)
class Scores:
    """The pinned set at one number of sampling steps. footage: empty where that half was skipped."""

    sample: SamplerOptions
    rendered: list[Scored]
    footage: list[Scored]
    summary: dict
    targets: dict[str, dict]


def score(model: ReshootModel, manifest: Manifest, footage_folder: Path | None, sample: SamplerOptions) -> Scores:
    """Score every case; without a folder of the manifest's videos only the rendered ones."""
    footage = [] if footage_folder is None else score_footage(model, manifest, footage_folder, sample)
    rendered = score_rendered(model, manifest, sample)
    summary = {"rendered": summarise(rendered)}
    if footage:
        turns = summarise_turns(footage, [spec.component for spec in manifest.footage])
        summary |= {"footage": summarise(footage), "turns": turns}
    targets = check_targets(summary["rendered"], summary.get("footage"), summary.get("turns"))
    return Scores(sample, rendered, footage, summary, targets)


def score_rendered(model: ReshootModel, manifest: Manifest, sample: SamplerOptions) -> list[Scored]:
    """Every rendered case of the manifest."""
    out = []
    for spec in tqdm(manifest.rendered, desc="rendered cases", unit="clip"):
        case = render_case(spec)
        out.append(_score(model, case.clip, case.mirrored_camera, replace(sample, seed=sample.seed + spec.seed)))
    return out


def score_footage(model: ReshootModel, manifest: Manifest, folder: Path, sample: SamplerOptions) -> list[Scored]:
    """Every pan-tilt-zoom cut of the manifest, with the turn measured back from the last frame."""
    out = []
    for i, spec in enumerate(tqdm(manifest.footage, desc="real pan-tilt-zoom cuts", unit="clip")):
        clip = footage_clip(spec, folder)
        scored = _score(model, clip, _mirrored_turn(clip.camera), replace(sample, seed=sample.seed + i))
        true, reach = _true_turn(clip.camera), {"pan": 25.0, "tilt": 15.0, "zoom": 0.6}
        measured = measure_turn(
            clip.video[0, -1], scored.made[-1], clip.camera[0, -1], reach["pan"], reach["tilt"], reach["zoom"]
        )
        found = {"pan": measured.pan_deg, "tilt": measured.tilt_deg, "zoom": measured.log_zoom}
        numbers = {f"true_{k}": v for k, v in true.items()} | {f"measured_{k}": v for k, v in found.items()}
        out.append(replace(scored, numbers=scored.numbers | numbers))
    return out


def _score(model: ReshootModel, clip: Clip, mirrored_camera: Camera, sample: SamplerOptions) -> Scored:
    reference, truth = clip.video
    made, mirrored = (
        generate(model, reference, Window(camera, clip.scene_depth), sample)
        for camera in (clip.camera, mirrored_camera)
    )
    seen = covisible(clip.depth[1], clip.depth[0], clip.camera[1], clip.camera[0])
    candidates = {
        "model": made,
        "mirrored": mirrored,
        "copy": reference,
        "mean_colour": reference.mean((0, 2, 3), keepdim=True).expand_as(reference),
        "depth_warp": depth_warp(reference, clip.depth[1], clip.depth[0], clip.camera[1], clip.camera[0]),
        "codec": model.codec.decode(model.codec.encode(truth[None, None]))[0, 0],
    }
    candidates |= {f"blur_{s:g}": gaussian_blur(reference, s) for s in BLUR_SIGMAS_PX}
    numbers = {"covisible_share": float(seen.float().mean())}
    for name, video in candidates.items():
        numbers[f"{name}_db"] = psnr(video, truth)
        numbers[f"{name}_covisible_db"] = psnr(video, truth, seen)
    numbers["gradient_energy"] = gradient_energy(made) / gradient_energy(truth)
    return Scored(clip, made, mirrored, numbers)


def _mirrored_turn(camera: Camera) -> Camera:
    """The same reference with the target turned and zoomed the opposite way from it."""
    turn = relative_pose(camera.c2w[0], camera.c2w[1])
    K = camera.K.clone()
    for i in (0, 1):
        K[1, :, i, i] = camera.K[0, :, i, i] ** 2 / camera.K[1, :, i, i]
    return replace(camera, c2w=torch.stack([camera.c2w[0], camera.c2w[0] @ turn.mT]), K=K)


def _true_turn(camera: Camera) -> dict[str, float]:
    """Pan and tilt (degrees) and log zoom of the target against the reference in the last frame."""
    forward = relative_pose(camera.c2w[0, -1], camera.c2w[1, -1])[:3, 2]
    return {
        "pan": float(torch.rad2deg(torch.atan2(forward[0], forward[2]))),
        "tilt": float(torch.rad2deg(torch.asin(-forward[1]))),
        "zoom": float((camera.K[1, -1, 0, 0] / camera.K[0, -1, 0, 0]).log()),
    }


def summarise(scored: list[Scored]) -> dict:
    """Means with intervals; `gap` is true minus mirrored path, `gain` the model minus the best blurred copy."""
    rows = [s.numbers for s in scored]
    names = [name for name in rows[0] if not name.startswith(("true_", "measured_", "blur_"))]
    summary = {name: mean_interval([row[name] for row in rows]) for name in names}
    for suffix in ("_db", "_covisible_db"):
        best = max(BLUR_SIGMAS_PX, key=lambda s: sum(row[f"blur_{s:g}{suffix}"] for row in rows))
        blurred = [row[f"blur_{best:g}{suffix}"] for row in rows]
        summary[f"best_blur{suffix}"] = mean_interval(blurred) | {"sigma_px": best}
        summary[f"gap{suffix}"] = mean_interval([row[f"model{suffix}"] - row[f"mirrored{suffix}"] for row in rows])
        summary[f"gain{suffix}"] = mean_interval(
            [row[f"model{suffix}"] - b for row, b in zip(rows, blurred, strict=True)]
        )
    return summary


def summarise_turns(scored: list[Scored], components: list[str]) -> dict:
    """Sign agreement of each cut's main component, and slope of measured over true amounts per component."""
    right, by_component = [], {}
    for case, component in zip(scored, components, strict=True):
        true, measured = case.numbers[f"true_{component}"], case.numbers[f"measured_{component}"]
        right.append(float(true * measured > 0))
        by_component.setdefault(component, []).append((true, measured))
    slopes = {name: _slope_through_origin(np.array(pairs)) for name, pairs in by_component.items()}
    return {"right_sign_share": sum(right) / len(right), "slope": slopes, "count": len(right)}


def _slope_through_origin(pairs: Float[np.ndarray, "n 2"]) -> float:
    """Least-squares factor between true and measured amounts."""
    true, measured = pairs.T
    return float((true * measured).sum() / (true * true).sum())


def check_targets(rendered: dict, footage: dict | None, turns: dict | None) -> dict[str, dict]:
    """Each figure that the project promises, what was reached, and whether it is met."""
    rows = {
        "rendered: true over mirrored path, co-visible dB": (rendered["gap_covisible_db"]["mean"], ">=", 4.0),
        "rendered: over the best blurred copy, co-visible dB": (rendered["gain_covisible_db"]["mean"], ">=", 3.0),
        "rendered: true over mirrored path, whole picture dB": (rendered["gap_db"]["mean"], ">=", 4.0),
        "rendered: over the best blurred copy, whole picture dB": (rendered["gain_db"]["mean"], ">=", 3.0),
        "rendered: gradient energy over the truth's": (rendered["gradient_energy"]["mean"], "in", (0.6, 1.4)),
    }
    if footage is not None and turns is not None:
        rows["footage: over the best blurred copy, co-visible dB"] = (footage["gain_covisible_db"]["mean"], ">", 0.0)
        rows["footage: share of cuts with the right sign"] = (turns["right_sign_share"], ">=", 0.95)
        for name, slope in turns["slope"].items():
            rows[f"footage: slope of measured over true {name}"] = (slope, "in", (0.7, 1.3))
    return met_targets(rows)
