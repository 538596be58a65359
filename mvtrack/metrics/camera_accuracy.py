"""How near estimated cameras are to the target path's: rotation, translation and both, per frame (CamI2V's measures).

Both paths are taken relative to their first frame, because an estimator chooses its own world; a monocular one chooses
its unit too, which is what `ScaleRule` settles. A path that only turns has no translation to compare: its translation
scores are NaN rather than normalised noise.
"""

import math
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from mvtrack.geometry.camera import path_extent, relative_pose
from mvtrack.geometry.similarity import Similarity

ScaleRule = Literal["self_max", "gt_lsq", "gt_max", "umeyama"]
SCALE_RULES: tuple[ScaleRule, ...] = get_args(ScaleRule)
LEAST_EXTENT = 1e-3  # of a path that moves, in the unit of the target cameras: a millimetre
_SELF_EPSILON, _PAIR_EPSILON = 1e-9, 1e-6  # CamI2V's and ReDirector's guards against a division by zero


@dataclass(frozen=True)
class CameraAccuracy:
    """Errors per compared frame. Translations are shares of the path's size; NaN where the target path only turns.

    coverage: share of the frames to compare that the estimator found; the errors are of these.
    """

    rotation_deg: Float[Tensor, "F"]
    translation: Float[Tensor, "F"]
    combined: Float[Tensor, "F"]  # Frobenius norm of the difference of [R | t]
    coverage: float
    rotation_only: bool

    def means(self) -> dict[str, float]:
        """Per-frame means: mRotErr in degrees, mTransErr, mCamMC."""
        rows = {"mRotErr": self.rotation_deg, "mTransErr": self.translation, "mCamMC": self.combined}
        return {name: float(row.mean()) for name, row in rows.items()}

    def sums(self) -> dict[str, float]:
        """CamI2V's sums over all frames, rotation in radians. NaN unless every frame was found: sums need them all."""
        rows = {"RotErr": torch.deg2rad(self.rotation_deg), "TransErr": self.translation, "CamMC": self.combined}
        return {name: float(row.sum()) if self.coverage == 1 else math.nan for name, row in rows.items()}


def camera_accuracy(
    estimated_c2w: Float[Tensor, "T 4 4"], true_c2w: Float[Tensor, "T 4 4"], scale: ScaleRule = "self_max",
    found: Bool[Tensor, "T"] | None = None, least_extent: float = LEAST_EXTENT,
    compared: Bool[Tensor, "T"] | None = None,
) -> CameraAccuracy:  # fmt: skip
    """Errors of estimated cameras against the target path's; both in any world, the estimate in any unit.

    scale: `self_max` divides each path by its own largest distance from its first frame (CamI2V's relative measure);
    `gt_max` both by the true path's (CamI2V's absolute one, for estimates in metres); `gt_lsq` brings the estimate to
    the true unit by least squares, then divides as gt_max; `umeyama` compares camera centres after the best similarity
    and divides by the true path's largest distance between two centres (ReDirector). found: frames that the estimator
    placed; the first of them is the origin, and all settle the unit. least_extent: true paths that reach less far are
    taken as turning only. compared: frames whose errors count, where the others only fix world and unit.
    Raises ValueError for paths of different lengths, numbers that are not finite, fewer than two frames, or none to
    compare.
    """
    if scale not in SCALE_RULES:
        raise ValueError(f"unknown scale {scale!r}; known: {', '.join(SCALE_RULES)}")
    found = _found(estimated_c2w, true_c2w, found)
    compared = torch.ones_like(found) if compared is None else compared
    if not (found & compared).any():
        raise ValueError(f"none of the {int(compared.sum())} frames to compare has a pose")
    estimated, true = (relative_pose(c2w[0], c2w) for c2w in (estimated_c2w[found].double(), true_c2w[found].double()))
    angle = rotation_angle(true[:, :3, :3], estimated[:, :3, :3])
    rotation_only = bool(path_extent(true) < least_extent)
    difference = true[:, :3, :3] - estimated[:, :3, :3]
    if rotation_only:
        translation = torch.full_like(angle, torch.nan)
    else:
        translation = _translation_error(estimated[:, :3, 3], true[:, :3, 3], scale)
    combined = (difference.square().sum((-1, -2)) + translation.square()).sqrt()
    coverage, counted = float(found[compared].double().mean()), compared[found]
    return CameraAccuracy(
        torch.rad2deg(angle[counted]), translation[counted], combined[counted], coverage, rotation_only
    )


def rotation_angle(a: Float[Tensor, "*any 3 3"], b: Float[Tensor, "*any 3 3"]) -> Float[Tensor, "*any"]:
    """Angle between rotations in radians, exact near 0 and near pi, where the arc cosine of the trace is not."""
    sine_squared = (a - b).square().sum((-1, -2)) / 8  # of half the angle
    cosine_squared = ((a * b).sum((-1, -2)) + 1) / 4
    return 2 * torch.atan2(sine_squared.sqrt(), cosine_squared.clamp_min(0).sqrt())


def _translation_error(
    estimated: Float[Tensor, "F 3"], true: Float[Tensor, "F 3"], scale: ScaleRule
) -> Float[Tensor, "F"]:
    own, reach = (t.norm(dim=-1).max() + _SELF_EPSILON for t in (estimated, true))
    if scale == "self_max":
        return (estimated / own - true / reach).norm(dim=-1)
    if scale == "umeyama":
        span = torch.cdist(true, true).max() + _PAIR_EPSILON
        return (Similarity.between(estimated, true).apply(estimated) - true).norm(dim=-1) / span
    if scale == "gt_lsq":
        # a path that goes the other way is not turned round by a negative factor
        estimated = estimated * ((estimated * true).sum() / estimated.square().sum().clamp_min(1e-18)).clamp_min(0)
    return (estimated - true).norm(dim=-1) / reach


def _found(estimated: Tensor, true: Tensor, found: Tensor | None) -> Bool[Tensor, "T"]:
    if estimated.shape != true.shape:
        raise ValueError(f"estimated and true cameras differ in number: {len(estimated)} and {len(true)}")
    found = torch.ones(len(true), dtype=torch.bool) if found is None else found
    if int(found.sum()) < 2:
        raise ValueError(f"camera accuracy needs at least 2 frames with a pose, got {int(found.sum())} of {len(true)}")
    for name, c2w in (("estimated", estimated), ("true", true)):
        bad = found & ~c2w.isfinite().all(-1).all(-1)
        if bad.any():
            raise ValueError(f"the {name} camera of frame {int(bad.nonzero()[0])} holds NaN or infinity")
    return found
