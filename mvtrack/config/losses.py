"""Which losses a model is trained with, and how each is computed."""

from dataclasses import field
from typing import Literal

from mvtrack.config.checked import Count, NonNegative, NonNegativeInt, Positive, config
from mvtrack.config.features import FeatureLossConfig
from tracking_head import TrackLossConfig


@config
class CorrespondenceLossConfig:
    """How rows of attention are compared with their labels. The defaults are MVTrack4Gen's (eq. 20, method §6-§7).

    heads: what becomes one distribution over a key frame: the mean of the heads' probabilities, each head on its own
    (mean of losses), the mean of their logits, or a small MLP over their logits (`LogitHead`).
    label_scope: a label in every key frame, or only in the one whose 3D point is nearest (CAMEO's released code;
    the other rows still count in the denominator).
    exclude: key frames that are never asked for: the query's own frame, its whole view, or none.
    reduction: weighted mean over all rows, or that of reference queries plus that of target queries.
    average: over each sample and then over the batch (so that micro-batches change nothing), or over all rows at once.
    loss: -log p(label), or the L1 distance to the one-hot label, averaged over the key frame's cells.
    """

    heads: Literal["prob_mean", "per_head", "logit_mean", "mlp"] = "prob_mean"
    label_scope: Literal["per_pair", "best_view"] = "per_pair"
    exclude: Literal["own_frame", "own_view", "nothing"] = "own_frame"
    reduction: Literal["weighted_mean", "ref_plus_tgt"] = "weighted_mean"
    average: Literal["per_sample", "batch"] = "per_sample"
    loss: Literal["cross_entropy", "l1"] = "cross_entropy"


@config
class PointMatchConfig:
    """Which 3D nearest neighbours become labels (CAMEO §3.3).

    resize: how point maps come to the token grid: bilinear (CAMEO), or the pixel at the token's centre.
    pairs: match all views and frames (a static scene), or views at the same time only (things move).
    cycle_cells: matching forward and back must end less than this many token cells from the start; None: no check.
    max_distance: largest 3D distance of a match, in the points' unit; None: no gate.
    max_spacings: the same as a multiple of the distance between neighbouring tokens' points, free of units; null: no
    gate, as in CAMEO's released code, and border cells of views that share nothing match.
    min_confidence: points below it are left out; needs a confidence map.
    """

    resize: Literal["bilinear", "nearest"] = "bilinear"
    pairs: Literal["all", "same_time"] = "all"
    cycle_cells: Positive | None = 1.5
    max_distance: Positive | None = None
    max_spacings: Positive | None = 2.0
    min_confidence: float | None = None


@config
class DistillationConfig:
    """How a teacher's many steps become a student's few (training/losses/distillation.py).

    steps: the student's, for which it is made; teacher_steps: the teacher's in all of them, a multiple. teacher: its
    folder, file or hub id; null: the model of train.init_from. guidance: scale of text guidance by which the teacher is
    sampled, distilled into the student's one forward; null: as the teacher is meant to be sampled.
    """

    steps: Count = 4
    teacher_steps: Count = 48
    teacher: str | None = None
    guidance: float | None = None

    def __post_init__(self) -> None:
        if self.teacher_steps % self.steps:
            near = self.steps * max(1, self.teacher_steps // self.steps)
            raise ValueError(
                f"teacher_steps {self.teacher_steps} must be a multiple of the student's steps {self.steps}: set it to "
                f"{near}"
            )


@config
class LossConfig:
    """correspondence: weight of the correspondence loss, 0 is off; the mean over `correspondence_layers` is taken.

    correspondence_targets: target tokens' cells in the reference at the same time by exact depth, visible track points
    in all views and frames (MVTrack4Gen), or nearest 3D points (CAMEO). correspondence_queries: drawn per sample from
    the latter two; null: all.
    tracking: weight of the tracking head's loss, 0 is off; tracking_points: points followed per sample.
    features: alignment with another network's features, at `model.feature_projector`.
    distillation: weight of few-step distillation, 0 is off; the denoising loss is off while it is on.
    """

    correspondence: NonNegative = 0.0
    correspondence_layers: tuple[NonNegativeInt, ...] | None = None  # null: model.tap_layer
    correspondence_targets: Literal["depth", "tracks", "points"] = "depth"
    correspondence_queries: Count | None = 1024
    correspondence_options: CorrespondenceLossConfig = field(default_factory=CorrespondenceLossConfig)
    correspondence_matches: PointMatchConfig = field(default_factory=PointMatchConfig)
    tracking: NonNegative = 0.0
    tracking_points: Count = 64
    tracking_options: TrackLossConfig = field(default_factory=TrackLossConfig)
    features: FeatureLossConfig = field(default_factory=FeatureLossConfig)
    distillation: NonNegative = 0.0
    distillation_options: DistillationConfig = field(default_factory=DistillationConfig)

    def __post_init__(self) -> None:
        layers = self.correspondence_layers
        if layers is not None and (not layers or list(layers) != sorted(set(layers))):
            raise ValueError(f"correspondence_layers must name layers once, in ascending order, got {list(layers)}")
        if self.correspondence_options.label_scope == "best_view" and self.correspondence_targets != "points":
            raise ValueError("label_scope best_view compares 3D distances: set correspondence_targets: points")
        if self.correspondence_matches.min_confidence is not None:
            raise ValueError("min_confidence needs confidence maps, which training data does not have: set it to null")
