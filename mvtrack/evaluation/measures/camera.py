"""How near the generated video's cameras are to the target path: the paper's means per frame, and CamI2V's sums.

A target path that is a motion starts where the reference starts, so a video can be judged by itself. A target
camera that stands still beside the reference's says nothing by itself: any video that does not move would be right.
There, the cameras of both videos are estimated together, and compared as the reference's first frame sees them.
"""

from dataclasses import dataclass
from typing import Literal, get_args

import torch

from mvtrack.evaluation.interface import Column, Metric, Sample, Scores, Skipped, failed, skipped
from mvtrack.metrics.camera_accuracy import CameraAccuracy, ScaleRule, camera_accuracy

CameraOrigin = Literal["own", "reference"]
CAMERA_ORIGINS: tuple[CameraOrigin, ...] = get_args(CameraOrigin)
_LEAST_EXTENT = 1e-3  # subject distances: a path that reaches less far only turns
_RULES: dict[ScaleRule, str] = {
    "self_max": "each path divided by its own largest distance from its first frame (CamI2V's relative measure)",
    "gt_lsq": "the estimate brought to the true unit by least squares, then divided by the true one's largest distance",
    "gt_max": "both divided by the true path's largest distance (CamI2V's absolute measure, for estimates in metres)",
    "umeyama": "centres after the best similarity, over the largest distance between two true ones (ReDirector)",
}
_ORIGIN_WORDS: dict[CameraOrigin, str] = {
    "own": "poses relative to the video's own first frame",
    "reference": "poses of reference and generated video estimated together, relative to the reference's first "
    "frame; the path that settles the unit is that of both",
}
_MEANS, _SUMS = ("mRotErr", "mTransErr", "mCamMC"), ("RotErr", "TransErr", "CamMC")


@dataclass(frozen=True)
class CameraMeasure(Metric):
    """scale: what settles the unit of the estimate, see `camera_accuracy`; the paths are those of both videos where
    they are estimated together. origin: whose first frame poses are relative to, the generated video's own or the
    reference's. least_coverage: share of frames that must have a pose for any error to be given; the errors are those
    of these frames."""

    scale: ScaleRule = "self_max"
    origin: CameraOrigin = "own"
    least_coverage: float = 0.5
    name = "camera_accuracy"
    version = 2
    columns = (
        Column("mRotErr", "mRotErr (°)", "lower"),
        Column("mTransErr", "mTransErr", "lower"),
        Column("mCamMC", "mCamMC", "lower"),
        Column("RotErr", "RotErr, sum (rad)", "lower"),
        Column("TransErr", "TransErr, sum", "lower"),
        Column("CamMC", "CamMC, sum", "lower"),
        Column("pose_coverage", "Frames with a pose", "higher", 2),
    )

    @property
    def needs(self) -> tuple[str, ...]:
        return ("camera", self._poses)

    @property
    def _poses(self) -> str:
        return "joint.poses" if self.origin == "reference" else "generated.poses"

    @property
    def settings(self) -> dict:
        least = {"least_coverage": self.least_coverage, "least_extent": _LEAST_EXTENT}
        return {"scale": self.scale, "origin": self.origin} | least

    @property
    def footnotes(self) -> tuple[str, ...]:
        return (
            f"Camera accuracy: {_ORIGIN_WORDS[self.origin]}; means over the frames that have a pose, at least "
            f"{self.least_coverage:.0%} of them; sums only where all have one. Translations: {_RULES[self.scale]}; the "
            "paper does not say what it used. A path that only turns has no translation score, and a video in which no "
            "parallax can be seen counts as one whose camera stays in its place. Frames with a pose: 0 where the "
            "estimate failed.",
        )

    def unestimated(self, why: Skipped) -> Scores:
        """No frame of such a video has a pose, and that counts."""
        return dict.fromkeys((*_MEANS, *_SUMS), why) | {"pose_coverage": 0.0}

    def score(self, sample: Sample) -> Scores:
        poses, inputs = sample.estimates[self._poses], sample.inputs
        found, c2w = torch.from_numpy(poses["found"]), torch.from_numpy(poses["c2w"])
        frames = len(inputs.reference)
        true = inputs.camera.c2w[1] if self.origin == "own" else inputs.camera.c2w.flatten(0, 1)
        of_video = torch.arange(len(true)) >= len(true) - frames
        placed = int(found[of_video].sum())
        coverage = placed / frames
        why = f"only {placed} of {frames} frames have a pose" if coverage < self.least_coverage or placed < 2 else None
        if self.origin == "reference" and not found[~of_video].any():
            why, coverage = "no frame of the reference has a pose in the world of the generated ones", 0.0
        if why:
            return dict.fromkeys((*_MEANS, *_SUMS), failed(why)) | {"pose_coverage": coverage}
        extent = _LEAST_EXTENT * (inputs.subject_distance or 1.0)
        accuracy = camera_accuracy(c2w, true.double(), self.scale, found, extent, of_video)
        values: Scores = {**accuracy.means(), **accuracy.sums(), "pose_coverage": coverage}
        unit_known = "scale_known" in poses and bool(poses["scale_known"])
        return values | _without_meaning(accuracy, self.scale == "gt_max" and not unit_known)


def _without_meaning(accuracy: CameraAccuracy, unit_lacks: bool) -> dict[str, Skipped]:
    """Reasons for the columns that this path or this estimate gives no number for."""
    reasons: dict[str, Skipped] = {}
    if accuracy.coverage < 1:
        reasons |= dict.fromkeys(_SUMS, skipped("sums need a pose of every frame"))
    moving = (*_MEANS[1:], *_SUMS[1:])
    if unit_lacks:
        reasons |= dict.fromkeys(moving, skipped("gt_max needs poses in metres, these have no known unit"))
    if accuracy.rotation_only:
        reasons |= dict.fromkeys(moving, skipped("the target path only turns: there is no translation to compare"))
    return reasons
