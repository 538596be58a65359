"""How well a model's tracking head follows points through both views of rendered scenes with exact tracks.

Features come from one forward on the true videos at a low noise level, as after generating (method §5).
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from mvtrack.backbone.dit import Tap
from mvtrack.backbone.model import ReshootModel, model_cameras
from mvtrack.backbone.ray_encoder import ray_maps
from mvtrack.camera import Camera
from mvtrack.diffusion.flow import add_noise
from mvtrack.metrics.tracking import epipolar_error, hidden_here_scores, tap_scores
from mvtrack.video_clip import TEMPORAL_STRIDE, Clip
from tracking_head import Features, Queries, Tracker, Tracks, queries_from_truth

FEATURE_SIGMA = 0.1


@dataclass(frozen=True)
class TrackedClip:
    """A clip's predicted and true tracks at video rate, and at which video frame each point was asked for."""

    clip: Clip
    predicted: Tracks
    truth: Tracks
    query_frame: Float[Tensor, "V N"]


@torch.no_grad()
def view_features(
    model: ReshootModel,
    video: Float[Tensor, "V T 3 H W"],
    camera: Camera,
    depth: Float[Tensor, "V T H W"] | None = None,
    scene_depth: float | None = None,
    sigma: float = FEATURE_SIGMA,
    seed: int = 0,
) -> Features:
    """Queries and keys of the tapped block for videos of one scene, the first one the clean reference.

    video: RGB in [-1, 1], 4n + 1 frames. camera: (V, T). depth, scene_depth: see `model_cameras`.
    """
    latents = model.codec.encode(video[None])
    scaled, _ = model_cameras(camera, model.config.rays, depth, scene_depth)
    noise = torch.randn(latents.shape, generator=torch.Generator().manual_seed(seed))
    level = torch.tensor([sigma])
    noisy = torch.cat([latents[:, :1], add_noise(latents, noise, level)[:, 1:]], 1)
    layer = model.config.tap_layer
    output = model.dit(noisy, 1000 * level, ray_maps(scaled, model.config.rays)[None], tap_layers=(layer,))
    tap: Tap = output.taps[0]
    return Features(tap.q[0], tap.k[0], model.config.rays.token_px)


def draw_queries(truth: Tracks, size: tuple[int, int], seed: int) -> Queries:
    """One anchor per point and view at which it can be seen; points that a view never shows have no query there."""
    anchored = truth.frames(slice(None, None, TEMPORAL_STRIDE))
    txy, valid = queries_from_truth(anchored, torch.Generator().manual_seed(seed))
    return Queries(txy, valid, anchored.xy.shape[1], size)


def track_clip(model: ReshootModel, clip: Clip, seed: int = 0, views_apart: bool = False) -> TrackedClip:
    """Follow the clip's true points from random visible anchors.

    views_apart: track each view on its own, so that nothing passes between them. Raises ValueError for a model without
    a tracking head.
    """
    if model.dit.tracking_head is None:
        raise ValueError("this model has no tracking head: train one (model.tracking and loss.tracking in the config)")
    size = tuple(clip.video.shape[-2:])
    features = view_features(model, clip.video, clip.camera, clip.depth, seed=seed)
    queries = draw_queries(clip.tracks, size, seed)
    tracker = Tracker(model.dit.tracking_head)
    if views_apart:
        parts = [
            tracker(*_one_view(features, queries, v), frame_stride=TEMPORAL_STRIDE) for v in range(len(clip.video))
        ]
        predicted = Tracks(*(torch.cat([getattr(p, n) for p in parts]) for n in ("xy", "visible", "valid")))
    else:
        predicted = tracker(features, queries, frame_stride=TEMPORAL_STRIDE)
    truth = Tracks(clip.tracks.xy, clip.tracks.visible, clip.tracks.valid & queries.valid)
    return TrackedClip(clip, predicted, truth, queries.txy[..., 0] * TEMPORAL_STRIDE)


def _one_view(features: Features, queries: Queries, view: int) -> tuple[Features, Queries]:
    part = slice(view, view + 1)
    alone = Queries(queries.txy[part], queries.valid[part], queries.num_frames, queries.size)
    return Features(features.q[part], features.k[part], features.token_px), alone


def still(tracked: TrackedClip) -> Tracks:
    """The baseline that leaves every point where it was asked for, always visible."""
    frame = tracked.query_frame.long()[:, None, :, None].expand(-1, 1, -1, 2)
    xy = tracked.truth.xy.gather(1, frame).expand_as(tracked.truth.xy)
    return Tracks(xy, torch.ones_like(tracked.truth.visible), tracked.truth.valid)


def score_tracks(tracked: TrackedClip, predicted: Tracks) -> dict[str, float]:
    """TAP-Vid's scores averaged over views (all frames but the query's), and what several views add."""
    size = tuple(tracked.clip.video.shape[-2:])
    scores = tap_scores(predicted, tracked.truth, tracked.query_frame, size, frames="strided").macro()
    hidden = hidden_here_scores(predicted, tracked.truth, size, tracked.query_frame)
    lines, _ = epipolar_error(predicted, tracked.clip.camera)
    counted = tracked.truth.valid[:, None].expand_as(tracked.truth.visible)
    visible = tracked.truth.visible[counted].float().mean()
    return scores | {
        "hidden_here_mean_px_of_256": float(hidden.mean_px.nanmean()),
        "epipolar_error_px": float(lines.nanmean()),
        "majority_occlusion_accuracy": float(torch.maximum(visible, 1 - visible)),
    }


def score_model(
    model: ReshootModel, clips: list[Clip], seed: int = 0, on_clip: Callable[[], None] | None = None
) -> tuple[list[TrackedClip], dict[str, list[dict[str, float]]]]:
    """Every clip's tracks, and scores per clip of the model and of the baseline that never moves a point."""
    tracked, rows = [], {"model": [], "model, views apart": [], "points stay where they were": []}
    for i, clip in enumerate(clips):
        one = track_clip(model, clip, seed + i)
        tracked.append(one)
        rows["model"].append(score_tracks(one, one.predicted))
        alone = track_clip(model, clip, seed + i, views_apart=True)
        rows["model, views apart"].append(score_tracks(one, alone.predicted))
        rows["points stay where they were"].append(score_tracks(one, still(one)))
        if on_clip:
            on_clip()
    return tracked, rows
