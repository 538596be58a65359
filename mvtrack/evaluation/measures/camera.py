"""How near the generated video's cameras are to those asked for: the paper's means per frame, and CamI2V's sums."""

from dataclasses import dataclass

import torch

from mvtrack.evaluation.interface import Column, Declined, Sample, Scores, failed, skipped
from mvtrack.metrics.camera_accuracy import CameraAccuracy, ScaleRule, camera_accuracy

_LEAST_EXTENT = 1e-3  # subject distances: a path that reaches less far only turns
_RULES: dict[ScaleRule, str] = {
    "self_max": "each path divided by its own largest distance from its first frame (CamI2V's relative measure)",
    "gt_lsq": "the estimate brought to the true unit by least squares, then divided by the true one's largest distance",
    "gt_max": "both divided by the true path's largest distance (CamI2V's absolute measure, for estimates in metres)",
    "umeyama": "centres after the best similarity, over the largest distance between two true ones (ReDirector)",
}
_MEANS, _SUMS = ("mRotErr", "mTransErr", "mCamMC"), ("RotErr", "TransErr", "CamMC")


@dataclass(frozen=True)
class CameraMeasure:
    """scale: what settles the unit of the estimate, see `camera_accuracy`. least_coverage: share of frames that must
    have a pose for any error to be given; the errors are those of these frames."""

    scale: ScaleRule = "self_max"
    least_coverage: float = 0.5
    name: str = "camera_accuracy"
    version: int = 1
    columns: tuple[Column, ...] = (
        Column("mRotErr", "mRotErr (°)", "lower"),
        Column("mTransErr", "mTransErr", "lower"),
        Column("mCamMC", "mCamMC", "lower"),
        Column("RotErr", "RotErr, sum (rad)", "lower"),
        Column("TransErr", "TransErr, sum", "lower"),
        Column("CamMC", "CamMC, sum", "lower"),
        Column("pose_coverage", "Frames with a pose", "higher", 2),
    )
    needs: tuple[str, ...] = ("camera", "generated.poses")

    @property
    def settings(self) -> dict:
        return {"scale": self.scale, "least_coverage": self.least_coverage, "least_extent": _LEAST_EXTENT}

    @property
    def footnotes(self) -> tuple[str, ...]:
        return (
            "Camera accuracy: poses relative to the first frame; means over the frames that have a pose, at least "
            f"{self.least_coverage:.0%} of them; sums only where all have one. Translations: {_RULES[self.scale]}; the "
            "paper does not say what it used. A path that only turns has no translation score, and a video in which no "
            "parallax can be seen counts as one whose camera stays in its place.",
        )

    def missing(self) -> str | None:
        return None

    def score(self, sample: Sample) -> Scores:
        poses, inputs = sample.estimates["generated.poses"], sample.inputs
        found = torch.from_numpy(poses["found"])
        coverage = float(found.double().mean())
        if coverage < self.least_coverage or int(found.sum()) < 2:
            why = failed(f"only {int(found.sum())} of {len(found)} frames have a pose")
            return dict.fromkeys((*_MEANS, *_SUMS), why) | {"pose_coverage": coverage}
        extent = _LEAST_EXTENT * (inputs.subject_distance or 1.0)
        c2w = torch.from_numpy(poses["c2w"])
        accuracy = camera_accuracy(c2w, inputs.camera[1].c2w.double(), self.scale, found, extent)
        values: Scores = {**accuracy.means(), **accuracy.sums(), "pose_coverage": coverage}
        unit_known = bool(poses["scale_known"]) if "scale_known" in poses else False
        return values | _without_meaning(accuracy, self.scale == "gt_max" and not unit_known)


def _without_meaning(accuracy: CameraAccuracy, unit_lacks: bool) -> dict[str, Declined]:
    """Reasons for the columns that this path or this estimate gives no number for."""
    reasons: dict[str, Declined] = {}
    if accuracy.coverage < 1:
        reasons |= dict.fromkeys(_SUMS, skipped("sums need a pose of every frame"))
    moving = (*_MEANS[1:], *_SUMS[1:])
    if unit_lacks:
        reasons |= dict.fromkeys(moving, skipped("gt_max needs poses in metres, these have no known unit"))
    if accuracy.rotation_only:
        reasons |= dict.fromkeys(moving, skipped("the asked-for path only turns: there is no translation to compare"))
    return reasons
