"""Cross-entropy between a layer's attention and ground-truth correspondences, of any backbone's q and k.

MVTrack4Gen eq. 20; CAMEO eq. 5 is the same function with another config (method §6-§7, docs/correspondence.md).
"""

import math
from collections.abc import Callable, Sequence

import torch
from einops import rearrange
from jaxtyping import Bool, Float
from torch import Tensor

from mvtrack.config.losses import CorrespondenceLossConfig
from mvtrack.correspondence.label_log_prob import Rows, label_log_prob, label_log_prob_checkpointed
from mvtrack.correspondence.logit_head import LogitHead, Projection
from mvtrack.correspondence.targets import CorrespondenceTargets

MVTRACK4GEN = CorrespondenceLossConfig()
CAMEO = CorrespondenceLossConfig(heads="mlp", exclude="own_view", reduction="ref_plus_tgt", average="batch")


def correspondence_loss(
    q: Float[Tensor, "B V f h w heads d"], k: Float[Tensor, "B V f h w heads d"], targets: CorrespondenceTargets,
    config: CorrespondenceLossConfig = MVTRACK4GEN, logit_head: LogitHead | Projection | None = None,
    reference: int | Bool[Tensor, "B V f"] = 1,
) -> Float[Tensor, ""]:  # fmt: skip
    """Weighted mean of -log p(label), p the softmax of q k^T / sqrt(d) over the h w keys of one (view, frame).

    q and k are what enters the attention (after its norm and position encoding), on one device with the targets.
    float32 inside and out (float64 for float64 features), also under autocast. Nothing asked: 0, with zero gradients.
    logit_head is read by heads `mlp` only. reference: which queries lie in references: those of so many first views,
    or of these frames of each sample; read by the reduction `ref_plus_tgt` only.

    Raises ValueError when q, k, targets and logit head do not fit each other or the config.
    """
    log_prob = label_log_prob_checkpointed if config.heads == "mlp" else label_log_prob
    return _loss(q, k, targets, config, logit_head, reference, log_prob)


def correspondence_loss_reference(
    q: Float[Tensor, "B V f h w heads d"], k: Float[Tensor, "B V f h w heads d"], targets: CorrespondenceTargets,
    config: CorrespondenceLossConfig = MVTRACK4GEN, logit_head: LogitHead | Projection | None = None,
    reference: int | Bool[Tensor, "B V f"] = 1,
) -> Float[Tensor, ""]:  # fmt: skip
    """`correspondence_loss` by plain autograd in checkpointed chunks: slower, can be differentiated twice."""
    return _loss(q, k, targets, config, logit_head, reference, label_log_prob_checkpointed)


def correspondence_loss_per_layer(
    taps: Sequence[tuple[Tensor, Tensor]],
    targets: CorrespondenceTargets,
    config: CorrespondenceLossConfig = MVTRACK4GEN,
    logit_heads: Sequence[LogitHead | Projection] | None = None,
    reference: int | Bool[Tensor, "B V f"] = 1,
) -> Float[Tensor, "L"]:
    """The loss of each layer's (q, k), each with its own logit head. CAMEO's expectation over layers is the mean.

    Raises ValueError as `correspondence_loss` does, and for another number of heads than layers.
    """
    if not taps:
        raise ValueError("taps is empty: name at least one layer to supervise")
    heads = [None] * len(taps) if logit_heads is None else list(logit_heads)
    if len(heads) != len(taps):
        raise ValueError(f"{len(taps)} layers need as many logit heads, got {len(heads)}")
    return torch.stack(
        [correspondence_loss(q, k, targets, config, head, reference) for (q, k), head in zip(taps, heads, strict=True)]
    )


def _loss(
    q: Tensor, k: Tensor, targets: CorrespondenceTargets, config: CorrespondenceLossConfig,
    logit_head: LogitHead | Projection | None, reference: int | Bool[Tensor, "B V f"],
    log_prob: Callable[..., Float[Tensor, "any R"]],
) -> Float[Tensor, ""]:  # fmt: skip
    check_features(q, k, targets)
    _check_head(q, config, logit_head)
    num_heads, width = q.shape[-2:]
    scale = width**-0.5
    if config.heads == "logit_mean":  # the mean of the heads' dot products is one dot product of the full width
        q, k = (rearrange(x, "b v f h w n d -> b v f h w 1 (n d)") for x in (q, k))
        scale = scale / num_heads
    rows = labelled_rows(targets, config, reference)
    queries = rearrange(q, "b v f h w n d -> b (v f h w) n d")
    keys = rearrange(k, "b v f h w n d -> b (v f) (h w) n d")
    extra = (logit_head,) if config.heads == "mlp" else ()
    log_p = log_prob(queries, keys, rows, scale, *extra)
    share = rows.share.to(log_p.dtype)
    if config.loss == "l1":  # |1 - p(label)| + the rest of the mass; without a label all of it
        cells = keys.shape[2]
        return ((share * 2 * (1 - log_p.exp().mean(0))).sum() + rows.unlabelled) / cells
    return (share * _cross_entropy(log_p, config)).sum()


def _cross_entropy(log_p: Float[Tensor, "heads R"], config: CorrespondenceLossConfig) -> Float[Tensor, "R"]:
    if config.heads == "prob_mean":
        return math.log(len(log_p)) - log_p.logsumexp(0)
    return -log_p.mean(0)


def check_features(q: Tensor, k: Tensor, targets: CorrespondenceTargets) -> None:
    """Raise ValueError unless q and k are features of the batch, views, frames and grid that the targets are for."""
    if q.ndim != 7 or q.shape != k.shape:
        raise ValueError(f"q and k must both be (B, V, f, h, w, heads, d), got {tuple(q.shape)} and {tuple(k.shape)}")
    if tuple(q.shape[3:5]) != targets.grid:
        raise ValueError(f"targets are for a token grid of {targets.grid}, features have {tuple(q.shape[3:5])}")
    asked = (targets.label.shape[0], *targets.label.shape[2:])
    if tuple(q.shape[:3]) != asked:
        raise ValueError(f"targets are for (batch, views, latent frames) {asked}, features have {tuple(q.shape[:3])}")


def _check_head(q: Tensor, config: CorrespondenceLossConfig, logit_head: LogitHead | Projection | None) -> None:
    if (config.heads == "mlp") != (logit_head is not None):
        raise ValueError(f"a logit head goes with heads: mlp and with nothing else, got heads: {config.heads}")
    if logit_head is not None and logit_head.num_heads != q.shape[-2]:
        raise ValueError(f"the logit head is for {logit_head.num_heads} heads, features have {q.shape[-2]}")


def labelled_rows(
    targets: CorrespondenceTargets, config: CorrespondenceLossConfig, reference: int | Bool[Tensor, "B V f"] = 1
) -> Rows:
    """The rows with a share in the loss, grouped by sample and key frame. All shares of a full batch sum to 1
    (`ref_plus_tgt`: to 2).

    reference: see `correspondence_loss`. Raises ValueError for `best_view` without distances and for a number of
    reference views outside [1, V - 1].
    """
    views, frames = targets.label.shape[2:]
    own = targets.own_frame
    asked = _asked(own, views, frames, config.exclude)
    weight = targets.weight.float() * asked
    if config.reduction == "weighted_mean":
        share = _normalised(weight, config.average)
    else:
        if isinstance(reference, int) and not 1 <= reference < views:
            raise ValueError(f"ref_plus_tgt needs a number of reference views in [1, {views - 1}], got {reference}")
        is_reference = in_reference(targets, reference)[..., None, None]
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


def in_reference(targets: CorrespondenceTargets, reference: int | Bool[Tensor, "B V f"] = 1) -> Bool[Tensor, "B Q"]:
    """Whether each query lies in a reference: in so many first views, or in the frames that are marked."""
    own = targets.own_frame
    if isinstance(reference, int):
        return own < reference * targets.label.shape[3]
    if reference.dtype != torch.bool:
        raise ValueError(f"reference must be a mask of torch.bool, got {reference.dtype}: use reference > 0.5")
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
