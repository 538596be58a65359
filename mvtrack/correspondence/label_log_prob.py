"""Log-probability of labelled keys under per-frame attention, without keeping an attention map.

Two ways to the same numbers. `label_log_prob` is an autograd function that saves q, k, the labels and one log-sum-exp a
row and head, and computes the logits again, block by block, in the backward pass. `label_log_prob_checkpointed` is
plain PyTorch in checkpointed chunks; it is the reference and carries the MLP head.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.utils.checkpoint import checkpoint

# Logits that exist at a time. Fewer starve the threads (or the GPU), more leave the CPU's cache.
_BLOCK_CPU, _BLOCK_GPU = 1 << 22, 1 << 25
_MLP_COPIES = 12  # a logit lives on as 4 hidden units, before and after GELU, and their gradients


@dataclass(frozen=True)
class Rows:
    """Rows of attention that carry a label: pairs of a query token and a key frame, in order of sample and key frame.

    query: flat token index over (V, f, h, w) of the row's sample. label: cell over (h, w) of the key frame.
    share: what the row counts for in the loss. counts: rows of each (sample, key frame), B * V * f numbers.
    unlabelled: the share of rows that are in the mean but have no label (`best_view`).
    """

    query: Int[Tensor, "R"]
    label: Int[Tensor, "R"]
    share: Float[Tensor, "R"]
    counts: tuple[int, ...]
    unlabelled: Float[Tensor, ""]


def label_log_prob(
    q: Float[Tensor, "B N heads d"], k: Float[Tensor, "B S C heads d"], rows: Rows, scale: float
) -> Float[Tensor, "heads R"]:
    """log softmax over the C keys of the row's key frame, at its label, of each head; logits are scale * q k^T.

    float32 inside and out (float64 for float64 features), under autocast too. Gradients come in the dtype of q and k;
    they cannot be differentiated again.
    """
    return _LabelLogProb.apply(q, k, rows.query, rows.label, rows.counts, scale)


class _LabelLogProb(torch.autograd.Function):
    @staticmethod
    def forward(ctx, q, k, query, label, counts, scale):
        log_p = torch.empty(q.shape[2], len(query), dtype=_compute_dtype(q, k), device=q.device)
        log_sum = torch.empty_like(log_p)
        with torch.autocast(q.device.type, enabled=False):
            for part in _segments(q, k, query, counts, scale):
                for heads, own, logits in _blocks(part):
                    rows = slice(part.first + own.start, part.first + own.stop)
                    index = label[rows].expand(len(logits), -1)[..., None]
                    at_label = logits.gather(-1, index)[..., 0]
                    top = logits.amax(-1, keepdim=True)
                    log_sum[heads, rows] = logits.sub_(top).exp_().sum(-1).log_().add_(top[..., 0])
                    log_p[heads, rows] = at_label - log_sum[heads, rows]
        ctx.save_for_backward(q, k, query, label, log_sum)
        ctx.counts, ctx.scale = counts, scale
        return log_p

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        q, k, query, label, log_sum = ctx.saved_tensors
        grad_q, grad_k = (torch.zeros(x.shape, dtype=x.dtype, device=x.device) for x in (q, k))
        flat = _flat_tokens(query, ctx.counts, q.shape)
        if q.dtype == log_sum.dtype:
            tokens, place, to_tokens = None, flat, grad_q.flatten(0, 1)
        else:  # add up in float32, for the asked tokens alone
            tokens, place = torch.unique(flat, return_inverse=True)
            to_tokens = torch.zeros(len(tokens), *q.shape[2:], dtype=log_sum.dtype, device=q.device)
        with torch.autocast(q.device.type, enabled=False):
            for part in _segments(q, k, query, ctx.counts, ctx.scale):
                to_query, to_key = torch.empty_like(part.queries), torch.zeros_like(part.keys)
                for heads, own, logits in _blocks(part):
                    rows = slice(part.first + own.start, part.first + own.stop)
                    index = label[rows].expand(len(logits), -1)[..., None]
                    up = grad[heads, rows, None]
                    # d log p(label) / d logits = onehot - softmax
                    slope = logits.sub_(log_sum[heads, rows, None]).exp_().mul_(-up).scatter_add_(-1, index, up)
                    keys = part.keys[:, heads].transpose(0, 1)
                    queries = part.queries[own, heads].transpose(0, 1)
                    to_query[own, heads] = torch.bmm(slope, keys).transpose(0, 1)
                    to_key[:, heads] += torch.bmm(slope.mT, queries).transpose(0, 1)
                rows = slice(part.first, part.first + len(part.queries))
                to_tokens.index_add_(0, place[rows], to_query.mul_(ctx.scale))
                grad_k[part.sample, part.frame] = to_key
        if tokens is not None:
            grad_q.flatten(0, 1)[tokens] = to_tokens.to(q.dtype)
        return grad_q, grad_k, None, None, None, None


@dataclass(frozen=True)
class _Segment:
    """All rows of one key frame."""

    sample: int
    frame: int
    first: int
    queries: Float[Tensor, "n heads d"]  # times the scale
    keys: Float[Tensor, "C heads d"]


def _segments(q: Tensor, k: Tensor, query: Tensor, counts: tuple[int, ...], scale: float) -> Iterator[_Segment]:
    dtype, first = _compute_dtype(q, k), 0
    for i, count in enumerate(counts):
        if count:
            b, s = divmod(i, k.shape[1])
            queries = q[b].index_select(0, query[first : first + count]).to(dtype) * scale
            yield _Segment(b, s, first, queries, k[b, s].to(dtype))
        first += count


def _blocks(part: _Segment) -> Iterator[tuple[slice, slice, Float[Tensor, "g n C"]]]:
    """Heads, rows and logits of blocks of bounded size that tile a segment."""
    count, num_heads, _ = part.queries.shape
    cells = len(part.keys)
    budget = _BLOCK_CPU if part.keys.device.type == "cpu" else _BLOCK_GPU
    num_rows = min(count, max(1, budget // cells))
    group = min(num_heads, max(1, budget // (cells * num_rows)))
    for h in range(0, num_heads, group):
        heads = slice(h, min(h + group, num_heads))
        keys = part.keys[:, heads].permute(1, 2, 0)  # (g, d, C)
        for r in range(0, count, num_rows):
            own = slice(r, min(r + num_rows, count))
            yield heads, own, torch.bmm(part.queries[own, heads].transpose(0, 1), keys)


def _flat_tokens(query: Tensor, counts: tuple[int, ...], shape: torch.Size) -> Int[Tensor, "R"]:
    """Token index over the whole batch."""
    per_sample = torch.tensor(counts, device=query.device).view(shape[0], -1).sum(1)
    return query + torch.arange(shape[0], device=query.device).repeat_interleave(per_sample) * shape[1]


def _compute_dtype(q: Tensor, k: Tensor) -> torch.dtype:
    return torch.float64 if torch.float64 in (q.dtype, k.dtype) else torch.float32


def label_log_prob_checkpointed(
    q: Float[Tensor, "B N heads d"], k: Float[Tensor, "B S C heads d"], rows: Rows, scale: float,
    logit_head: Callable[[Tensor], Tensor] | None = None,
) -> Float[Tensor, "any R"]:  # fmt: skip
    """What `label_log_prob` gives, by plain autograd; with a logit head one row of log-probabilities for all heads."""
    tokens, place = torch.unique(_flat_tokens(rows.query, rows.counts, q.shape), return_inverse=True)
    asked = q.flatten(0, 1).index_select(0, tokens)
    chunk = rows_per_chunk(k.shape[2], k.shape[3], logit_head is not None, q.device.type)
    return log_prob_in_chunks(asked, k, place, rows, scale, chunk, logit_head)


def rows_per_chunk(cells: int, num_heads: int, mlp: bool, device: str) -> int:
    """How many rows over so many keys have their logits at a time. device: "cpu" or another."""
    budget = _BLOCK_CPU if device == "cpu" else _BLOCK_GPU
    return max(1, budget // (cells * num_heads * (_MLP_COPIES if mlp else 1)))


def log_prob_in_chunks(
    asked: Float[Tensor, "U heads d"], k: Float[Tensor, "B S C heads d"], place: Int[Tensor, "R"], rows: Rows,
    scale: float, chunk: int, logit_head: Callable[[Tensor], Tensor] | None = None,
) -> Float[Tensor, "any R"]:  # fmt: skip
    """As `label_log_prob_checkpointed`, of query tokens that are gathered already; place: which of them a row is of."""
    frames = k.flatten(0, 1).unbind(0)  # slices would each add a whole k of zeros in the backward pass
    pieces, first = [], 0
    for keys, count in zip(frames, rows.counts, strict=True):
        for r in range(first, first + count, chunk):
            own = slice(r, min(r + chunk, first + count))
            pieces.append((keys, place[own], rows.label[own]))
        first += count
    if not pieces:  # a chunk without rows keeps q, k and the head in the graph
        pieces = [(frames[0], place, rows.label)]
    if sum(rows.counts) <= chunk:  # all of it fits at once: nothing is computed twice
        return torch.cat([_chunk(asked, *piece, scale, logit_head) for piece in pieces], 1)
    out = [
        checkpoint(_chunk, asked, *piece, scale, logit_head, use_reentrant=False, preserve_rng_state=False)
        for piece in pieces
    ]
    return torch.cat(out, 1)


def _chunk(
    asked: Float[Tensor, "U heads d"], keys: Float[Tensor, "C heads d"], place: Int[Tensor, "n"],
    label: Int[Tensor, "n"], scale: float, logit_head: Callable[[Tensor], Tensor] | None,
) -> Float[Tensor, "any n"]:  # fmt: skip
    dtype = _compute_dtype(asked, keys)
    with torch.autocast(asked.device.type, enabled=False):
        queries = asked.index_select(0, place).to(dtype)
        if logit_head is None:
            logits = torch.einsum("nhd,chd->hnc", queries, keys.to(dtype)) * scale
        else:
            logits = logit_head(torch.einsum("nhd,chd->nch", queries, keys.to(dtype)) * scale)[None]
        index = label.expand(len(logits), -1)[..., None]
        return logits.log_softmax(-1).gather(-1, index)[..., 0]
