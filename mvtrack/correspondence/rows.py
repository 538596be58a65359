"""From targets to rows of attention: which are asked for, and what each counts for in the loss."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from mvtrack.config.losses import CorrespondenceLossConfig
from mvtrack.correspondence.label_log_prob import Rows
from mvtrack.correspondence.targets import CorrespondenceTargets


def labelled_rows(
    targets: CorrespondenceTargets,
    config: CorrespondenceLossConfig,
    num_reference: int = 1,
    reference: Bool[Tensor, "B V f"] | None = None,
) -> Rows:
    """The rows with a share in the loss, grouped by sample and key frame. All shares of a full batch sum to 1
    (`ref_plus_tgt`: to 2).

    num_reference: views 0 .. num_reference - 1 are references; reference: or these frames of each sample. Read by the
    reduction `ref_plus_tgt` only.
    Raises ValueError for `best_view` without distances and for num_reference outside [1, V - 1].
    """
    views, frames = targets.label.shape[2:]
    own = targets.own_frame
    asked = _asked(own, views, frames, config.exclude)
    weight = targets.weight.float() * asked
    if config.reduction == "weighted_mean":
        share = _normalised(weight, config.average)
    else:
        if reference is None and not 1 <= num_reference < views:
            raise ValueError(f"ref_plus_tgt needs num_reference in [1, {views - 1}], got {num_reference}")
        is_reference = in_reference(targets, num_reference, reference)[..., None, None]
        share = _normalised(weight * is_reference, config.average) + _normalised(weight * ~is_reference, config.average)
    total = share.sum()
    if config.label_scope == "best_view":
        share = share * _nearest_only(targets, asked)
    by_frame = share.permute(0, 2, 3, 1)  # (B, V, f, Q), the order that rows come in
    sample, view, frame, index = by_frame.nonzero(as_tuple=True)
    where = (sample, index, view, frame)
    counts = torch.bincount((sample * views + view) * frames + frame, minlength=len(share) * views * frames)
    query, label = targets.query[sample, index].long(), targets.label[where].long()
    return Rows(query, label, share[where], tuple(counts.tolist()), total - share.sum())


def in_reference(
    targets: CorrespondenceTargets, num_reference: int = 1, reference: Bool[Tensor, "B V f"] | None = None
) -> Bool[Tensor, "B Q"]:
    """Whether each query lies in a reference: in the first views, or in the frames that `reference` marks."""
    own = targets.own_frame
    if reference is None:
        return own < num_reference * targets.label.shape[3]
    return reference.flatten(1).gather(1, own)


def _asked(own: Tensor, views: int, frames: int, exclude: str) -> Bool[Tensor, "B Q V f"]:
    key = torch.arange(views * frames, device=own.device).view(views, frames)
    if exclude == "own_frame":
        return key != own[..., None, None]
    if exclude == "own_view":
        return (key // frames != own[..., None, None] // frames).expand(*own.shape, views, frames)
    return torch.ones_like(own, dtype=torch.bool)[..., None, None].expand(*own.shape, views, frames)


def _normalised(weight: Float[Tensor, "B Q V f"], average: str) -> Float[Tensor, "B Q V f"]:
    """Weights that sum to 1 / B in each sample, or to 1 in the batch; zeros stay zeros."""
    total = weight.sum((1, 2, 3), keepdim=True)
    if average == "per_sample":
        return weight / torch.where(total > 0, total, 1.0) / len(weight)
    total = total.sum()
    return weight / torch.where(total > 0, total, 1.0)


def _nearest_only(targets: CorrespondenceTargets, asked: Bool[Tensor, "B Q V f"]) -> Bool[Tensor, "B Q V f"]:
    """True at the one key frame of each query whose point lies nearest, whether or not it has a weight."""
    if targets.distance is None:
        raise ValueError("label_scope best_view needs targets with distances, which only point maps give")
    distance = torch.where(asked, targets.distance, torch.inf).flatten(2)
    nearest = torch.zeros_like(distance, dtype=torch.bool).scatter_(2, distance.argmin(2, keepdim=True), True)
    return nearest.view(asked.shape)
