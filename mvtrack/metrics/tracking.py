"""Scores of point tracks: TAP-Vid's, per view, and what several views add (peers-tracking §5).

Positions are compared after scaling to 256x256 images, as TAP-Vid does, unless pixels are named. A score without
anything to score is NaN; means over views leave NaN out.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from mvtrack.geometry.camera import Camera, require_perspective
from tracking_head import Tracks

THRESHOLDS = (1, 2, 4, 8, 16)  # TAP-Vid, pixels of 256x256
_SIDE = 256


@dataclass(frozen=True)
class TapScores:
    """TAP-Vid's scores in [0, 1], for every view (V,) or every track (V, N). The last axis runs over THRESHOLDS.

    within: visible points nearer than the threshold, of all visible ones. jaccard: true positives over true positives
    + misses + false alarms. occlusion_accuracy: visibility predicted right.
    """

    within: Float[Tensor, "*any 5"]
    jaccard: Float[Tensor, "*any 5"]
    occlusion_accuracy: Float[Tensor, "*any"]

    @property
    def delta_avg(self) -> Float[Tensor, "*any"]:
        return self.within.mean(-1)

    @property
    def average_jaccard(self) -> Float[Tensor, "*any"]:
        return self.jaccard.mean(-1)

    def macro(self) -> dict[str, float]:
        """delta_avg, average_jaccard and occlusion_accuracy, averaged over the leading axes."""
        names = ("delta_avg", "average_jaccard", "occlusion_accuracy")
        return {name: float(getattr(self, name).nanmean()) for name in names}


def tap_scores(
    predicted: Tracks, truth: Tracks, query_frame: Float[Tensor, "V N"], size: tuple[int, int],
    frames: Literal["first", "strided", "all"] = "first", per: Literal["view", "track"] = "view",
    found: Bool[Tensor, "V N"] | None = None,
) -> TapScores:  # fmt: skip
    """TAP-Vid's scores of unbatched tracks in images of size (H, W); equal to tapnet's compute_tapvid_metrics.

    Points count where `truth.valid`. frames: those after the query's (first), all but it (strided), or all of them,
    for views in which nothing was queried. found: where False, the prediction counts as hidden and nowhere. Half frame
    numbers round to even. Raises ValueError for tracks of different shapes.
    """
    _check(predicted, truth)
    count = truth.xy.shape[1]
    if query_frame.shape != truth.valid.shape:
        raise ValueError(f"query_frame must be {tuple(truth.valid.shape)} (V, N), got {tuple(query_frame.shape)}")
    number = torch.arange(count, device=truth.xy.device)[None, :, None]
    asked = query_frame.round().long()[:, None]
    evaluated = {"first": number > asked, "strided": number != asked, "all": torch.ones_like(truth.visible)}[frames]
    evaluated = evaluated & truth.valid[:, None]
    known = torch.ones_like(truth.valid) if found is None else found
    visible, claimed = truth.visible, predicted.visible & known[:, None]
    error = _error_256(predicted.xy, truth.xy, size).square().sum(-1)
    limit = error.new_tensor(THRESHOLDS).square()
    near = (error[..., None] < limit) & known[:, None, :, None]

    def total(mask: Tensor) -> Tensor:
        axis = 1 if per == "track" else (1, 2)
        return (mask & evaluated.reshape(evaluated.shape + (1,) * (mask.ndim - 3))).sum(axis).to(error.dtype)

    correct = near & visible[..., None]
    seen = total(visible)[..., None]
    false_alarms = total(claimed[..., None] & ~correct)
    return TapScores(
        within=total(correct) / seen,
        jaccard=total(correct & claimed[..., None]) / (seen + false_alarms),
        occlusion_accuracy=total(claimed == visible) / total(torch.ones_like(visible)),
    )


@dataclass(frozen=True)
class HiddenScores:
    """Points hidden in a view while another view sees them: what only several views can know. (V,) each."""

    mean_px: Float[Tensor, "V"]
    median_px: Float[Tensor, "V"]
    delta_avg: Float[Tensor, "V"]  # share within TAP-Vid's thresholds, averaged over these
    count: Float[Tensor, "V"]


def hidden_here_scores(
    predicted: Tracks, truth: Tracks, size: tuple[int, int], query_frame: Float[Tensor, "V N"] | None = None,
    inside_only: bool = True,
) -> HiddenScores:  # fmt: skip
    """Position errors where a point is hidden in a view and visible in another at the same frame.

    Needs truth that knows where hidden points are, as rendered scenes do. query_frame: leave these frames out.
    inside_only: leave out points that are hidden because they are outside the image.
    """
    _check(predicted, truth)
    elsewhere = truth.visible.sum(0, keepdim=True) - truth.visible.long() > 0
    asked = ~truth.visible & elsewhere & truth.valid[:, None]
    if inside_only:
        height, width = size
        asked &= (truth.xy >= 0).all(-1) & (truth.xy[..., 0] < width) & (truth.xy[..., 1] < height)
    if query_frame is not None:
        number = torch.arange(truth.xy.shape[1], device=truth.xy.device)[None, :, None]
        asked &= number != query_frame.round().long()[:, None]
    error = _error_256(predicted.xy, truth.xy, size).norm(dim=-1)
    rows = [error[v][asked[v]] for v in range(len(error))]
    near = [(row[:, None] < row.new_tensor(THRESHOLDS)).double().mean() for row in rows]
    return HiddenScores(
        torch.stack([row.mean() for row in rows]),
        torch.stack([row.quantile(0.5) if len(row) else row.mean() for row in rows]),
        torch.stack(near).to(error.dtype),
        error.new_tensor([len(row) for row in rows]),
    )


def cross_view_pck(
    predicted_xy: Float[Tensor, "V T N 2"], truth: Tracks, source: int = 0, threshold_px: float = 16.0,
    reliable: Bool[Tensor, "V T N"] | None = None,
) -> Float[Tensor, "V"]:  # fmt: skip
    """Share of points seen by the source and another view at once whose position there is within threshold_px pixels
    (MVTrack4Gen A.2: 16 px of the image itself, not exceeded).

    reliable: of a cycle check; an unreliable match is a miss. The source's own entry is NaN.
    """
    both = truth.visible & truth.visible[source] & (truth.valid & truth.valid[source])[:, None]
    right = (predicted_xy - truth.xy).norm(dim=-1) <= threshold_px
    if reliable is not None:
        right &= reliable
    score = (right & both).sum((1, 2)) / both.sum((1, 2)).to(predicted_xy.dtype)
    score[source] = torch.nan
    return score


def epipolar_error(predicted: Tracks, camera: Camera, source: int = 0) -> tuple[Float[Tensor, "V"], Float[Tensor, "V"]]:
    """Mean distance in pixels of each view's points from the epipolar lines of the source's, and their number.

    Needs no true tracks: the two positions of one point at one frame must see the same place. Counts points predicted
    visible in both views; pairs of cameras at one place have no epipolar lines and are left out. camera: (V, T).
    """
    views, frames = predicted.xy.shape[:2]
    if camera.shape != (views, frames):
        raise ValueError(f"camera must be ({views}, {frames}) (V, T), got {tuple(camera.shape)}")
    distance = torch.stack([_line_distance(predicted.xy[source], predicted.xy[v], camera[source], camera[v])
                            for v in range(views)])  # fmt: skip
    counted = predicted.visible & predicted.visible[source] & distance.isfinite()
    counted &= (predicted.valid & predicted.valid[source])[:, None]
    counted[source] = False
    number = counted.sum((1, 2))
    return torch.where(counted, distance, 0.0).sum((1, 2)) / number, number.to(distance.dtype)


def _line_distance(
    xy: Float[Tensor, "T N 2"], other_xy: Float[Tensor, "T N 2"], camera: Camera, other: Camera
) -> Float[Tensor, "T N"]:
    """Distance of other_xy from the line in which the other camera sees the ray through xy; inf where there is none."""
    for each in (camera, other):
        require_perspective(each, "the distance from epipolar lines")
    ones = torch.ones_like(xy[..., :1])
    to_other = torch.linalg.inv(other.c2w.double()) @ camera.c2w.double()
    rotation, baseline = to_other[:, :3, :3], to_other[:, :3, 3]
    ray = torch.cat([xy, ones], -1).double() @ torch.linalg.inv(camera.K.double()).mT @ rotation.mT
    normal = torch.linalg.cross(baseline[:, None].expand_as(ray), ray)  # of the plane through both centres and the ray
    line = normal @ torch.linalg.inv(other.K.double())
    offset = (torch.cat([other_xy, ones], -1).double() * line).sum(-1).abs() / line[..., :2].norm(dim=-1)
    tiny = baseline.norm(dim=-1)[:, None] < 1e-9
    return torch.where(tiny, torch.inf, offset).to(xy.dtype)


def _error_256(a: Tensor, b: Tensor, size: tuple[int, int]) -> Float[Tensor, "V T N 2"]:
    return (a - b) * a.new_tensor([_SIDE / size[1], _SIDE / size[0]])


def _check(predicted: Tracks, truth: Tracks) -> None:
    if predicted.xy.ndim != 4 or predicted.xy.shape != truth.xy.shape:
        raise ValueError(
            f"predicted and true tracks must have one shape (V, T, N, 2), got {tuple(predicted.xy.shape)} and "
            f"{tuple(truth.xy.shape)}"
        )
