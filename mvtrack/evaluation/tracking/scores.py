"""How well a model's tracking head follows points through both views of rendered scenes: scores per clip.

Scores are numbers of one clip under names that tables and JSON share. `delta_avg`, `average_jaccard` and
`occlusion_accuracy` are TAP-Vid's, averaged over views; `first_` before them: frames after the query's only; `latent_`:
at the head's own anchors, before interpolation; `view_1_`: of that view alone.
"""

from collections.abc import Callable
from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from mvtrack.data.clip import TEMPORAL_STRIDE, Clip
from mvtrack.evaluation.tracking.tracked_clips import (
    TrackedClip,
    asked_in_reference,
    attention_starts_of,
    follow_reference,
    still,
    track_apart,
    track_clip,
    track_shuffled,
    true_depth_starts,
)
from mvtrack.inference.tracking.scene import require_head
from mvtrack.inference.tracking.windowed_tracker import attention_starts
from mvtrack.metrics.tracking import cross_view_pck, epipolar_error, hidden_here_scores, tap_scores
from mvtrack.models.reshoot_model import ReshootModel
from tracking_head import Tracks

_ANCHORS = slice(None, None, TEMPORAL_STRIDE)


def score_tracks(tracked: TrackedClip, predicted: Tracks) -> dict[str, float | int]:
    """TAP-Vid's scores (all frames but the query's), and what several views add.

    hidden_here: error of points that one view hides and another shows, averaged over views; `_pooled` over all such
    points, `_count` their number. cross_view_pck: see `_across`.
    """
    size, truth, frame = _size(tracked), tracked.truth, tracked.query_frame
    scores = _tap(predicted, truth, frame, size, "strided")
    hidden = hidden_here_scores(predicted, truth, size, frame)
    lines, _ = epipolar_error(predicted, tracked.clip.camera)
    counted = truth.valid[:, None].expand_as(truth.visible)
    visible = truth.visible[counted].float().mean()
    return (
        scores
        | {f"view_{v}_hidden_here_mean_px_of_256": float(px) for v, px in enumerate(hidden.mean_px)}
        | {
            "hidden_here_mean_px_of_256": float(hidden.mean_px.nanmean()),
            "hidden_here_pooled_px_of_256": float((hidden.mean_px * hidden.count).nansum() / hidden.count.sum()),
            "hidden_here_count": int(hidden.count.sum()),
            "epipolar_error_px": float(lines.nanmean()),
            "cross_view_pck": _across(tracked, predicted, truth),
            "majority_occlusion_accuracy": float(torch.maximum(visible, 1 - visible)),
        }
    )


def target_scores(followed: TrackedClip) -> dict[str, float]:
    """TAP-Vid's scores of the views in which nothing was asked, over all frames; a point that was not found is a miss.

    found: share of the points found among those that the view ever shows. starts_hidden: share of the starts found at a
    frame in which the point is hidden there, where no start can be right by sight.
    """
    size, targets = _size(followed), list(range(1, len(followed.clip.video)))
    predicted, truth = followed.predicted.views(targets), followed.truth.views(targets)
    scores = _tap(predicted, truth, followed.query_frame[targets], size, "all", predicted.valid)
    shown = truth.visible.any(1) & truth.valid
    frame = followed.start[targets][..., 0].long()
    hidden = ~truth.visible.gather(1, frame.clamp(min=0)[:, None])[:, 0]
    begun = (frame >= 0) & truth.valid
    return scores | {
        "cross_view_pck": _across(followed, followed.predicted, followed.truth, followed.predicted.valid),
        "found": float(predicted.valid[shown].float().mean()),
        "starts_hidden": float(hidden[begun].float().mean()),
    }


def score_model(
    model: ReshootModel, clips: list[Clip], seed: int = 0, on_clip: Callable[[], None] | None = None
) -> tuple[list[TrackedClip], dict[str, list[dict[str, float | int]]]]:
    """Every clip's tracks, and scores per clip of the model beside what they are to be compared with.

    Rows that begin with `target view` are of the other way to ask: in the reference alone. Their first one, with the
    true starts, is the same prediction as the model's own row, scored alike.
    """
    tracker, tracked = require_head(model), []
    rows: dict[str, list[dict[str, float | int]]] = {}
    for i, clip in enumerate(clips):
        tracked.append(track_clip(model, clip, seed + i))
    for i, one in enumerate(tracked):
        ways = {
            "model": one.predicted,
            "model, views apart": track_apart(tracker, one),
            "model, other views of another clip": track_shuffled(tracker, one, tracked[i - 1]),
            "points stay where they were": still(one),
        }
        targets = {
            "target view, true starts": asked_in_reference(one),
            "target view, starts by attention": follow_reference(tracker, one, attention_starts_of(one.clip)),
            "target view, starts by attention alone": follow_reference(tracker, one, attention_starts),
            "target view, starts by true depth": follow_reference(tracker, one, true_depth_starts(one.clip)),
        }
        for who, predicted in ways.items():
            rows.setdefault(who, []).append(score_tracks(one, predicted))
        for who, followed in targets.items():
            rows.setdefault(who, []).append(target_scores(followed))
        if on_clip:
            on_clip()
    return tracked, rows


def _tap(
    predicted: Tracks, truth: Tracks, frame: Float[Tensor, "V N"], size: tuple[int, int],
    frames: Literal["strided", "all"], found: Bool[Tensor, "V N"] | None = None,
) -> dict[str, float]:  # fmt: skip
    """TAP-Vid's scores in all the ways the module names; single views only where there are several."""
    per_view = tap_scores(predicted, truth, frame, size, frames, found=found)
    first = tap_scores(predicted, truth, frame, size, "first", found=found)
    anchored = predicted.frames(_ANCHORS), truth.frames(_ANCHORS), frame / TEMPORAL_STRIDE
    latent = tap_scores(*anchored, size, frames, found=found)
    scores = per_view.macro()
    scores |= {f"first_{name}": value for name, value in first.macro().items()}
    scores |= {f"latent_{name}": value for name, value in latent.macro().items()}
    for name in per_view.macro() if len(truth.valid) > 1 else ():
        scores |= {f"view_{v}_{name}": float(value) for v, value in enumerate(getattr(per_view, name))}
    return scores


def _across(tracked: TrackedClip, predicted: Tracks, truth: Tracks, found: Bool[Tensor, "V N"] | None = None) -> float:
    """Share of points that the reference and another view show at one frame and that are placed there within a token,
    which is the paper's 16 pixels at its size."""
    reliable = None if found is None else found[:, None].expand_as(truth.visible)
    return float(cross_view_pck(predicted.xy, truth, 0, float(tracked.features.token_px), reliable).nanmean())


def _size(tracked: TrackedClip) -> tuple[int, int]:
    return tuple(tracked.clip.video.shape[-2:])
