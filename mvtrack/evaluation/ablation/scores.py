"""What a re-shooting model of an experiment is scored by: attention, pictures, obedience to the camera, tracks.

Every score is a list with one value a case of the pinned set; scores of attention, which are pooled, have one value.
"""

import json
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from tqdm import tqdm

from mvtrack.correspondence.probe_scores import KINDS, ProbeSums
from mvtrack.correspondence.targets import targets_from_tracks
from mvtrack.data.clip import Clip
from mvtrack.data.synthetic.test_scenes import CaseSpec, RenderedCase, render_case
from mvtrack.evaluation.tracking.scores import target_scores
from mvtrack.evaluation.tracking.tracked_clips import follow_reference, track_clip, true_depth_starts
from mvtrack.geometry.warp import covisible, depth_warp
from mvtrack.inference.forward_noised import noised_videos, probe_layer
from mvtrack.inference.pipeline import shipped_model
from mvtrack.inference.sampler import SamplerOptions, generate
from mvtrack.inference.tracking.scene import require_head
from mvtrack.metrics.image import gradient_energy, psnr, ssim
from mvtrack.models.conditioning import Window
from mvtrack.models.diffusion.flow import sampling_sigmas
from mvtrack.models.reshoot_model import ReshootModel, load_model
from tracking_head import Tracks

Scores = dict[str, list[float]]


class Title(NamedTuple):
    """What a score is called in tables, its factor and number format there, and whether more is better."""

    text: str
    factor: float = 1.0
    form: str = ".2f"
    more_is_better: bool = True


TITLES = {
    "psnr_db": Title("PSNR, whole picture, dB"),
    "psnr_covisible_db": Title("PSNR where both views see, dB"),
    "ssim": Title("SSIM", form=".4f"),
    "warp_consistency_db": Title("against the exact warp of the reference, dB"),
    "dynamic_warp_consistency_db": Title("the same on moving things, dB"),
    "gap_covisible_db": Title("true over mirrored path where both see, dB"),
    "tracks_delta_avg": Title("tracks followed in the result, delta_avg, %", 100.0, ".1f"),
    "tracks_average_jaccard": Title("tracks followed in the result, average Jaccard, %", 100.0, ".1f"),
    "pck": Title("cross-view PCK of the supervised layer, %", 100.0, ".1f"),
    "alignment_error": Title("its alignment error, nats", form=".3f", more_is_better=False),
    "gradient_energy": Title("gradient energy over the truth's", form=".3f"),
    "validation/psnr_db": Title("PSNR of validation, dB"),
    "validation/swept_psnr_db": Title("the same with estimated depth, dB"),
    "validation/seen_psnr_db": Title("PSNR of what the known view shows, dB"),
    "validation/swept_seen_psnr_db": Title("the same with estimated depth, dB"),
    "validation/ssim": Title("SSIM of validation", form=".4f"),
    "validation/swept_ssim": Title("the same with estimated depth", form=".4f"),
    "validation/matches": Title("matches between neighbouring views over the truth's, %", 100.0, ".1f"),
    "validation/swept_matches": Title("the same with estimated depth, %", 100.0, ".1f"),
    "validation/true_matches": Title("of these, as geometry says, over the truth's, %", 100.0, ".1f"),
    "validation/swept_true_matches": Title("the same with estimated depth, %", 100.0, ".1f"),
    "validation/pixel_matches": Title("matches right to the pixel, over the truth's, %", 100.0, ".1f"),
    "validation/swept_pixel_matches": Title("the same with estimated depth, %", 100.0, ".1f"),
    "validation/true_minus_mirrored_db": Title("true over mirrored path in validation, dB"),
    "validation/true_minus_other_db": Title("true over wrong cameras, dB"),
    "validation/alignment_error": Title("alignment error, nats", form=".3f", more_is_better=False),
    "validation/pck": Title("PCK, all pairs of views, %", 100.0, ".1f"),
}
_LEVELS, _QUERIES = 5, 256  # noise levels of a sampling run, track points a clip
_FOLLOWED = 48  # points that are followed in a result


def validation_scores(run_dir: Path) -> Scores:
    """The scores of a run's last validation. Raises ValueError for a run without any."""
    curves = validation_curves(run_dir)
    return {name: values[-1:] for name, values in curves.items() if name != "step"}


def validation_curves(run_dir: Path) -> Scores:
    """`step`, and every known score of a run's validations on the way. Raises ValueError for a run without any."""
    path = run_dir / "metrics.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    rows = [row for row in rows if any(name.startswith("validation/") for name in row)]
    if not rows:
        raise ValueError(f"{path} holds no validation")
    return {name: [row[name] for row in rows] for name in ("step", *TITLES) if name in rows[0]}


def pinned_scores(model: ReshootModel, specs: list[CaseSpec], layer: int, sample: SamplerOptions) -> Scores:
    """The scores of `TITLES` on rendered cases of the pinned set, validation's left out."""
    cases = [render_case(spec, num_points=_QUERIES) for spec in tqdm(specs, desc="rendering", unit="clip")]
    rows = [_picture_scores(model, case, sample) for case in tqdm(cases, desc="scoring", unit="clip")]
    scores = {name: [row[name] for row in rows if name in row] for name in TITLES}
    return {name: values for name, values in scores.items() if values} | attention_scores(model, cases, layer)


def attention_scores(model: ReshootModel, cases: list[RenderedCase], layer: int) -> Scores:
    """Cross-view PCK with cycle check (within a token) and alignment error of one layer, over noise levels."""
    sigmas = sampling_sigmas(_LEVELS, model.config.flow.shift)[:-1]
    total: ProbeSums | None = None
    for number, case in enumerate(tqdm(cases, desc="probing", unit="clip")):
        clip = case.clip
        tracks = Tracks.stack([clip.tracks])
        targets = targets_from_tracks(tracks, case.spec.size, model.config.rays.token_px, _QUERIES, seed=number)
        videos = noised_videos(model, clip.video, Window(clip.camera, clip.scene_depth), number)
        for sums in probe_layer(model, videos, targets, layer, sigmas):
            total = sums if total is None else total + sums
    means = total.means()[KINDS[2]]
    return {name: [means[name]] for name in ("pck", "alignment_error")}


def _picture_scores(model: ReshootModel, case: RenderedCase, sample: SamplerOptions) -> dict[str, float]:
    """Of one case; what cannot be measured in it (nothing moves where both views see) is left out."""
    clip, sample = case.clip, replace(sample, seed=sample.seed + case.spec.seed)
    reference, truth = clip.video
    made, mirrored = (
        generate(model, reference, Window(camera, clip.scene_depth), sample)
        for camera in (clip.camera, case.mirrored_camera)
    )
    views = clip.depth[1], clip.depth[0], clip.camera[1], clip.camera[0]
    seen = covisible(*views)
    scores = {
        "psnr_db": psnr(made, truth),
        "psnr_covisible_db": psnr(made, truth, seen),
        "ssim": ssim(made, truth),
        "warp_consistency_db": warp_consistency(clip, made),
        "gap_covisible_db": psnr(made, truth, seen) - psnr(mirrored, truth, seen),
        "gradient_energy": gradient_energy(made) / gradient_energy(truth),
    }
    if (moving := seen & case.moving).any():
        scores["dynamic_warp_consistency_db"] = warp_consistency(clip, made, moving)
    return scores | _followed(clip, made)


def _followed(clip: Clip, made: Float[Tensor, "T 3 H W"]) -> dict[str, float]:
    """How well true tracks are followed in a result by the shipped tracker, which is the same for all arms: points of
    the reference, begun in the result where exact depth puts them."""
    tracker, frames = _tracker(), len(made)
    if tuple(made.shape[-2:]) != tracker.config.sizes[0] or frames > tracker.config.num_frames:
        return {}
    tracker = replace(tracker, config=replace(tracker.config, num_frames=frames))
    points = replace(clip, video=torch.stack([clip.video[0], made]), tracks=_some(clip.tracks))
    tracked = track_clip(tracker, points)
    scores = target_scores(follow_reference(require_head(tracker), tracked, true_depth_starts(clip)))
    return {f"tracks_{name}": scores[name] for name in ("delta_avg", "average_jaccard")}


def _some(tracks: Tracks) -> Tracks:
    return Tracks(tracks.xy[:, :, :_FOLLOWED], tracks.visible[:, :, :_FOLLOWED], tracks.valid[:, :_FOLLOWED])


@cache
def _tracker() -> ReshootModel:
    return load_model(shipped_model(tracking=True))


def warp_consistency(clip: Clip, made: Float[Tensor, "T 3 H W"], where: Bool[Tensor, "T H W"] | None = None) -> float:
    """PSNR (dB) of a generated target view against the reference warped by exact depth, where both views see, or in a
    part of that."""
    views = clip.depth[1], clip.depth[0], clip.camera[1], clip.camera[0]
    return psnr(made, depth_warp(clip.video[0], *views), covisible(*views) if where is None else where)
