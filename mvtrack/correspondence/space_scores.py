"""How near matches come in space, by the angle between the two cameras' lines of sight (CAMEO, Precision@2 cm)."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from mvtrack.correspondence.probe import ProbedRows
from mvtrack.correspondence.probe_scores import precision_3d
from mvtrack.correspondence.targets import CorrespondenceTargets

ANGLE_EDGES_DEG = (0.0, 2.0, 5.0, 10.0, 15.0, 20.0, 30.0, 180.0)
_QUERIES = 256  # whose distances to all tokens of a frame exist at a time


@dataclass(frozen=True)
class SpaceSums:
    """Sums over rows of each angle bin; two of them add up to that of both sets of clips.

    rows: how many. near: those whose match lies near the query's point. reachable: those for which the grid has any
    token that near: what a perfect matcher would get.
    """

    rows: Float[Tensor, "bins"]
    near: Float[Tensor, "bins"]
    reachable: Float[Tensor, "bins"]

    def __add__(self, other: "SpaceSums") -> "SpaceSums":
        return SpaceSums(self.rows + other.rows, self.near + other.near, self.reachable + other.reachable)


@dataclass(frozen=True)
class SpaceTruth:
    """What the matches of a batch are judged by, computed once for all layers.

    points: one world point a token (NaN where unknown). counted: rows that are judged: across views, at the same time
    (moving things lie elsewhere at another), both ends known. bin: each row's angle bin. reachable: see SpaceSums.
    threshold: of each sample, in the points' unit.
    """

    points: Float[Tensor, "B V f C 3"]
    counted: Bool[Tensor, "B Q V f"]
    bin: Tensor
    reachable: Bool[Tensor, "B Q V f"]
    threshold: Float[Tensor, "B"]


def space_truth(
    targets: CorrespondenceTargets,
    points: Float[Tensor, "B V f C 3"],
    centres: Float[Tensor, "B V f 3"],
    threshold: Float[Tensor, "B"],
) -> SpaceTruth:
    """points: as in SpaceTruth. centres: of the cameras, in the same world."""
    views, frames = targets.label.shape[2:]
    own, batch = targets.own_frame, torch.arange(len(points))[:, None]
    start = points.flatten(1, 3)[batch, targets.query]  # (B, Q, 3)
    own_view, own_time = own // frames, own % frames
    same_time = torch.arange(frames) == own_time[..., None, None]
    other_view = torch.arange(views)[:, None] != own_view[..., None, None]
    counted = (targets.weight > 0) & same_time & other_view & start.isfinite().all(-1)[..., None, None]
    sight = start - centres[batch, own_view, own_time]
    other_sight = start[:, :, None, None] - centres[:, None]  # (B, Q, V, f, 3)
    cosine = torch.cosine_similarity(sight[:, :, None, None].expand_as(other_sight), other_sight, dim=-1)
    angle = torch.rad2deg(torch.acos(cosine.clamp(-1, 1)))
    edges = torch.tensor(ANGLE_EDGES_DEG[1:-1], dtype=angle.dtype)
    reachable = torch.zeros_like(counted)
    for b, i, v, f in _blocks(counted):
        gap = torch.cdist(start[b, i], points[b, v, f], compute_mode="donot_use_mm_for_euclid_dist")
        reachable[b, i, v, f] = gap.nan_to_num(torch.inf).amin(-1) <= threshold[b]
    return SpaceTruth(points, counted, torch.bucketize(angle, edges, right=True), reachable, threshold)


def _blocks(counted: Bool[Tensor, "B Q V f"]) -> Iterator[tuple[int, Int[Tensor, "q"], int, int]]:
    """(sample, some counted queries, view, frame)."""
    for b, v, f in torch.cartesian_prod(*(torch.arange(counted.shape[d]) for d in (0, 2, 3))).tolist():
        for queries in counted[b, :, v, f].nonzero()[:, 0].split(_QUERIES):
            yield b, queries, v, f


def sum_space(rows: ProbedRows, targets: CorrespondenceTargets, truth: SpaceTruth) -> SpaceSums:
    """Count the matches of one layer that lie near their query's point, by angle."""
    _, gap = precision_3d(rows, targets, truth.points)
    near = gap <= truth.threshold[:, None, None, None]
    bins = torch.nn.functional.one_hot(truth.bin, len(ANGLE_EDGES_DEG) - 1).double()
    counts = (bins[truth.counted & x].sum(0) for x in (torch.ones_like(near), near, truth.reachable))
    return SpaceSums(*counts)
