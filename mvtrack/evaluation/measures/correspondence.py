"""How well a row's own model finds points again: its attention, and its tracking head where it has one.

These are scores of the model, not of the video it made: they are taken on the true videos of both views, and only rows
that `--model` made have them.
"""

from dataclasses import dataclass, field

import torch

from mvtrack.data.clip import TEMPORAL_STRIDE, Clip
from mvtrack.evaluation.attention.scenes import clip_targets
from mvtrack.evaluation.interface import Column, Inputs, Metric, Sample, Scores, Skipped, failed, skipped
from mvtrack.evaluation.methods.model import ModelMethod
from mvtrack.evaluation.tracking.scores import score_tracks
from mvtrack.evaluation.tracking.tracked_clips import track_clip
from mvtrack.inference.forward_noised import noised_videos, probe_layer
from mvtrack.inference.tracking.features import FEATURE_SIGMA
from mvtrack.models.conditioning import Window
from mvtrack.models.reshoot_model import ReshootModel

_QUERIES, _SEED = 256, 0


@dataclass(frozen=True)
class Correspondence(Metric):
    """models: of the rows that a model of this project made; None for one that is not at hand any more. They do not
    change the settings: a row's video, whose hash its scores are kept by, is made by its model."""

    models: dict[str, ModelMethod | None] = field(default_factory=dict)
    name = "correspondence"
    columns = (
        Column("attention_pck", "attention PCK, cross-view", "higher"),
        Column("tracks_delta_avg", "tracks δ_avg", "higher"),
        Column("tracks_average_jaccard", "tracks AJ", "higher"),
    )
    needs = ("target", "tracks")

    settings = {"sigma": FEATURE_SIGMA, "queries": _QUERIES, "seed": _SEED}
    footnotes = (
        "Attention PCK and tracks: of the row's model on the true videos of both views at noise level "
        f"{FEATURE_SIGMA:g}. PCK: share of points whose best match by the tapped layer lies within one token in "
        "the other view; δ_avg and AJ: TAP-Vid's, of its tracking head, frames but the query's, means over views.",
    )

    def score(self, sample: Sample) -> Scores | Skipped:
        if sample.method not in self.models:
            return skipped("no model of this project made this video")
        clip = _clip(sample.inputs)
        if isinstance(clip, Skipped):
            return clip
        method = self.models[sample.method]
        if method is None:
            return failed("the model that made this video is gone or has changed")
        model = method.placed()
        if model.config.views is not None:
            return skipped("a model of still scenes has no moments to match")
        return self._attention(model, clip) | self._tracks(model, clip)

    def _attention(self, model: ReshootModel, clip: Clip) -> Scores:
        targets = clip_targets(clip, model.config.token_px(), _QUERIES, _SEED)
        videos = noised_videos(model, clip.video, Window(clip.camera, clip.scene_depth), _SEED)
        [sums] = probe_layer(model, videos, targets, model.config.tap_layer, torch.tensor([FEATURE_SIGMA]))
        means = sums.means().get("cross_view")
        return {"attention_pck": means["pck"] if means else skipped("no true track is seen by both views at once")}

    def _tracks(self, model: ReshootModel, clip: Clip) -> Scores:
        names = {"tracks_delta_avg": "delta_avg", "tracks_average_jaccard": "average_jaccard"}
        if model.dit.tracking_head is None:
            return dict.fromkeys(names, skipped("this model has no tracking head"))
        tracked = track_clip(model, clip, _SEED)
        scores = score_tracks(tracked, tracked.predicted)
        return {column: scores[name] for column, name in names.items()}


def _clip(inputs: Inputs) -> Clip | Skipped:
    """Both true videos, as many frames as a latent video has."""
    if inputs.target_frames != tuple(range(len(inputs.reference))):
        return skipped("the true target view is not known at every frame")
    depth = (inputs.depth, inputs.target_depth)
    clip = Clip(
        torch.stack([inputs.reference, inputs.target]), inputs.camera, inputs.fps, inputs.caption, inputs.key,
        tracks=inputs.tracks, depth=None if any(d is None for d in depth) else torch.stack(depth),
    )  # fmt: skip
    return clip.frames(slice(0, (clip.num_frames - 1) // TEMPORAL_STRIDE * TEMPORAL_STRIDE + 1))
