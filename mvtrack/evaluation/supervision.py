"""What correspondence supervision changes in a re-shooting model: attention, pictures, obedience to the camera."""

import numpy as np
from jaxtyping import Float
from torch import Tensor
from tqdm import tqdm

from mvtrack.correspondence.probe_scores import KINDS, ProbeSums
from mvtrack.correspondence.targets import targets_from_tracks
from mvtrack.data.clip import Clip
from mvtrack.data.synthetic.test_scenes import CaseSpec, render_case
from mvtrack.evaluation.ablation import Scores
from mvtrack.evaluation.manifest import Manifest
from mvtrack.evaluation.pinned_benchmark import score_rendered
from mvtrack.geometry.warp import covisible, depth_warp
from mvtrack.inference.forward_noised import noised_videos, probe_layer
from mvtrack.inference.sampler import SamplerOptions
from mvtrack.metrics.image import psnr
from mvtrack.models.conditioning import Window
from mvtrack.models.diffusion.flow import sampling_sigmas
from mvtrack.models.reshoot_model import ReshootModel
from tracking_head import Tracks

TITLES = {
    "pck": ("cross-view PCK of the supervised layer, %", 100.0, ".1f"),
    "alignment_error": ("its alignment error, nats", 1.0, ".3f"),
    "psnr_covisible_db": ("PSNR where both views see, dB", 1.0, ".2f"),
    "psnr_db": ("PSNR, whole picture, dB", 1.0, ".2f"),
    "gap_covisible_db": ("true over mirrored path where both see, dB", 1.0, ".2f"),
    "warp_consistency_db": ("against the exact warp of the reference, dB", 1.0, ".2f"),
    "gradient_energy": ("gradient energy over the truth's", 1.0, ".3f"),
}
_LEVELS, _QUERIES = 5, 256  # noise levels of a sampling run, track points a clip


def score(model: ReshootModel, specs: list[CaseSpec], layer: int, sample: SamplerOptions) -> Scores:
    """The scores of `TITLES`, means over rendered cases."""
    return attention_scores(model, specs, layer) | picture_scores(model, specs, sample)


def attention_scores(model: ReshootModel, specs: list[CaseSpec], layer: int) -> Scores:
    """Cross-view PCK with cycle check (within a token) and alignment error of one layer, over noise levels."""
    sigmas = sampling_sigmas(_LEVELS, model.config.flow.shift)[:-1]
    total: ProbeSums | None = None
    for number, spec in enumerate(tqdm(specs, desc="probing", unit="clip")):
        clip = render_case(spec, num_points=_QUERIES).clip
        tracks = Tracks.stack([clip.tracks])
        targets = targets_from_tracks(tracks, spec.size, model.config.rays.token_px, _QUERIES, seed=number)
        videos = noised_videos(model, clip.video, Window(clip.camera, clip.scene_depth), number)
        for sums in probe_layer(model, videos, targets, layer, sigmas):
            total = sums if total is None else total + sums
    means = total.means()[KINDS[2]]
    return {"pck": means["pck"], "alignment_error": means["alignment_error"]}


def picture_scores(model: ReshootModel, specs: list[CaseSpec], sample: SamplerOptions) -> Scores:
    """The pinned benchmark's scores of generated videos, and how well they repeat what the reference shows.

    Warp consistency: PSNR against the reference carried over by exact depth, where both views see.
    """
    manifest = Manifest(version=0, rendered=tuple(specs), footage=())
    rows = []
    for case in score_rendered(model, manifest, sample):
        n = case.numbers
        rows.append(
            {
                "psnr_covisible_db": n["model_covisible_db"],
                "psnr_db": n["model_db"],
                "gap_covisible_db": n["model_covisible_db"] - n["mirrored_covisible_db"],
                "warp_consistency_db": warp_consistency(case.clip, case.made),
                "gradient_energy": n["gradient_energy"],
            }
        )
    return {name: float(np.mean([row[name] for row in rows])) for name in rows[0]}


def warp_consistency(clip: Clip, made: Float[Tensor, "T 3 H W"]) -> float:
    """PSNR (dB) of a generated target view against the reference warped by exact depth, where both views see."""
    views = clip.depth[1], clip.depth[0], clip.camera[1], clip.camera[0]
    return psnr(made, depth_warp(clip.video[0], *views), covisible(*views))
