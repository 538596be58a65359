"""Supervising attention with correspondences, for any backbone's queries and keys (docs/correspondence.md)."""

from mvtrack.config.losses import CorrespondenceLossConfig, PointMatchConfig
from mvtrack.correspondence.features import features_from_tokens
from mvtrack.correspondence.logit_head import LogitHead
from mvtrack.correspondence.loss import CAMEO, MVTRACK4GEN, correspondence_loss, correspondence_loss_per_layer
from mvtrack.correspondence.nearest_neighbours import PointMaps, points_from_depth, targets_from_points
from mvtrack.correspondence.targets import CorrespondenceTargets, targets_from_depth, targets_from_tracks

__all__ = [
    "CAMEO",
    "MVTRACK4GEN",
    "CorrespondenceLossConfig",
    "CorrespondenceTargets",
    "LogitHead",
    "PointMaps",
    "PointMatchConfig",
    "correspondence_loss",
    "correspondence_loss_per_layer",
    "features_from_tokens",
    "points_from_depth",
    "targets_from_depth",
    "targets_from_points",
    "targets_from_tracks",
]
