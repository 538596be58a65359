"""What a layer's attention does at ground-truth correspondences, row by row, without ever holding an attention map.

Works on (q, k) of any backbone, one layer at a time: sampled queries' rows are computed frame by frame and only a few
numbers of each are kept (MVTrack4Gen §4, A.2; CAMEO §3.2).
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from einops import rearrange
from jaxtyping import Bool, Float, Int
from torch import Tensor

from mvtrack.correspondence.loss import check_features
from mvtrack.correspondence.targets import CorrespondenceTargets

_BLOCK = 1 << 22  # logits that exist at a time


@dataclass(frozen=True)
class ProbedRows:
    """One number per labelled row, zero where nothing is asked. Probabilities are means over heads.

    asked: rows with a weight, the query's own frame left out. match: the key frame's most attended cell.
    error_px: from the match (its cell's centre) to the truth. cycle_px: matching back from there, how far from the
    query it ends. attention: mass of the softmax over the keys of all frames that lies on the true cell.
    confidence: largest probability within the key frame. nll: -log probability of the true cell within the key frame,
    of each head (CAMEO's alignment error, before its mean).
    """

    asked: Bool[Tensor, "B Q V f"]
    match: Int[Tensor, "B Q V f"]
    error_px: Float[Tensor, "B Q V f"]
    cycle_px: Float[Tensor, "B Q V f"]
    attention: Float[Tensor, "B Q V f"]
    confidence: Float[Tensor, "B Q V f"]
    nll: Float[Tensor, "heads B Q V f"]


@torch.no_grad()
def probe_rows(
    q: Float[Tensor, "B V f h w heads d"],
    k: Float[Tensor, "B V f h w heads d"],
    targets: CorrespondenceTargets,
    token_px: int,
) -> ProbedRows:
    """Measure one layer. token_px: edge of a token in pixels. Beyond q and k it needs memory for some rows only.
    float32 inside, under autocast too.

    Raises ValueError when q, k and targets do not fit each other.
    """
    check_features(q, k, targets)
    with torch.autocast(q.device.type, enabled=False):
        out = [_probe_sample(q[b], k[b], _sample(targets, b), token_px) for b in range(len(q))]
    shape = targets.label.shape[2:]
    columns = [torch.stack(c, -3).unflatten(-1, shape) for c in zip(*out, strict=True)]
    return ProbedRows(*columns)


@dataclass(frozen=True)
class _Sample:
    """Targets of one sample, S = V f key frames in one axis; positions in raster pixels where known."""

    query: Int[Tensor, "Q"]
    own: Int[Tensor, "Q"]
    label: Int[Tensor, "Q S"]
    asked: Bool[Tensor, "Q S"]
    grid: tuple[int, int]
    query_xy: Float[Tensor, "Q 2"] | None
    label_xy: Float[Tensor, "Q S 2"] | None


def _sample(targets: CorrespondenceTargets, b: int) -> _Sample:
    own, label = targets.own_frame[b], targets.label[b].flatten(1)
    elsewhere = torch.arange(label.shape[1], device=label.device) != own[:, None]
    return _Sample(
        targets.query[b],
        own,
        label,
        (targets.weight[b].flatten(1) > 0) & elsewhere,
        targets.grid,
        None if targets.query_xy is None else targets.query_xy[b],
        None if targets.label_xy is None else targets.label_xy[b].flatten(1, 2),
    )


def _probe_sample(q: Tensor, k: Tensor, sample: _Sample, token_px: int) -> tuple[Tensor, ...]:
    """The fields of ProbedRows for one sample, (Q, S) each."""
    keys = rearrange(k, "v f h w n d -> (v f) (h w) n d")
    tokens = rearrange(q, "v f h w n d -> (v f h w) n d")
    count, frames, num_heads = *sample.label.shape, q.shape[-2]
    dtype = torch.float64 if q.dtype == torch.float64 else torch.float32
    # queries that ask for nothing are not computed
    active = sample.asked.any(1).nonzero()[:, 0]
    log_sum = torch.zeros(num_heads, count, frames, dtype=dtype, device=q.device)
    at_label = torch.zeros_like(log_sum)
    match, confidence = torch.zeros_like(sample.label), torch.zeros(count, frames, dtype=dtype, device=q.device)
    for s in range(frames):
        for part, logits in row_logits(tokens, sample.query[active], keys[s]):
            rows = active[part]
            log_sum[:, rows, s] = own = logits.logsumexp(-1)
            at_label[:, rows, s] = logits.gather(-1, sample.label[rows, s].expand(num_heads, -1)[..., None])[..., 0]
            confidence[rows, s], match[rows, s] = (logits - own[..., None]).exp().mean(0).max(-1)
    attention = (at_label - log_sum.logsumexp(-1, keepdim=True)).exp().mean(0)
    back = _match_back(tokens, keys, sample, match)
    cell, query_xy = sample.query % keys.shape[1], sample.query_xy
    query_xy = cell_centres(cell, sample.grid, token_px) if query_xy is None else query_xy
    label_xy = cell_centres(sample.label, sample.grid, token_px) if sample.label_xy is None else sample.label_xy
    error = (cell_centres(match, sample.grid, token_px) - label_xy).norm(dim=-1)
    cycle = (cell_centres(back, sample.grid, token_px) - query_xy[:, None]).norm(dim=-1)
    asked = sample.asked
    fields = (x * asked for x in (match, error, cycle, attention, confidence, log_sum - at_label))
    return (asked, *fields)


def _match_back(
    tokens: Float[Tensor, "N heads d"], keys: Float[Tensor, "S C heads d"], sample: _Sample, match: Int[Tensor, "Q S"]
) -> Int[Tensor, "Q S"]:
    """The cell of the query's own frame that each matched token attends to most."""
    back, cells = torch.zeros_like(match), keys.shape[1]
    index, frame = sample.asked.nonzero(as_tuple=True)
    token = frame * cells + match[index, frame]
    for i in sample.own.unique().tolist():
        mine = (sample.own[index] == i).nonzero()[:, 0]
        for part, logits in row_logits(tokens, token[mine], keys[i]):
            rows = mine[part]
            back[index[rows], frame[rows]] = logits.softmax(-1).mean(0).argmax(-1)
    return back


def row_logits(
    tokens: Float[Tensor, "N heads d"], rows: Int[Tensor, "n"], keys: Float[Tensor, "C heads d"]
) -> Iterator[tuple[slice, Float[Tensor, "heads m C"]]]:
    """Logits of some tokens' rows against one key frame, a bounded number of rows at a time."""
    cells, num_heads, width = keys.shape
    chunk = max(1, _BLOCK // (cells * num_heads))
    dtype = torch.float64 if keys.dtype == torch.float64 else torch.float32
    columns = keys.to(dtype).permute(1, 2, 0)  # (heads, d, C)
    for start in range(0, len(rows), chunk):
        part = slice(start, min(start + chunk, len(rows)))
        queries = tokens[rows[part]].to(dtype).transpose(0, 1) / math.sqrt(width)
        yield part, torch.bmm(queries, columns)


def cell_centres(cell: Int[Tensor, "*n"], grid: tuple[int, int], token_px: int) -> Float[Tensor, "*n 2"]:
    """Raster coordinates of cells' centres."""
    return (torch.stack([cell % grid[1], cell // grid[1]], -1) + 0.5) * token_px
