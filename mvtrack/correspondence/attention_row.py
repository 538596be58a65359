"""Where one token looks: its row of the attention matrix as maps over every frame of every view (MVTrack4Gen D)."""

import math
from dataclasses import dataclass

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor


@dataclass(frozen=True)
class AttentionRow:
    """One token's attention, the mean over the chosen heads. joint: over all tokens, sums to 1.

    per_frame: renormalised within each frame (the softmax over that frame's keys), so that a frame which gets little
    shows where that little goes.
    """

    joint: Float[Tensor, "V f h w"]
    per_frame: Float[Tensor, "V f h w"]

    @property
    def share(self) -> Float[Tensor, "V f"]:
        """How much of the attention each frame gets; sums to 1."""
        return self.joint.sum((-2, -1))

    @property
    def peak(self) -> Tensor:
        """(row, column) of the most attended token of each frame: (V, f, 2)."""
        index = self.per_frame.flatten(2).argmax(-1)
        width = self.per_frame.shape[-1]
        return torch.stack([index // width, index % width], -1)


@torch.no_grad()
def attention_row(
    q: Float[Tensor, "V f h w heads d"],
    k: Float[Tensor, "V f h w heads d"],
    token: tuple[int, int, int, int],
    heads: tuple[int, ...] | None = None,
) -> AttentionRow:
    """The row of the token at (view, frame, row, column), in float32. heads: counted from 0; None: all.

    Raises ValueError for a token or head that does not exist.
    """
    _check(tuple(q.shape[:4]), token, q.shape[4], heads)
    query, keys = (q[token], k) if heads is None else (q[token][list(heads)], k[..., list(heads), :])
    with torch.autocast(q.device.type, enabled=False):
        logits = torch.einsum("nd,vfhwnd->nvfhw", query.float(), keys.float()) / math.sqrt(q.shape[-1])
    joint = rearrange(logits, "n v f h w -> n (v f h w)").softmax(-1).mean(0)
    per_frame = rearrange(logits, "n v f h w -> n v f (h w)").softmax(-1).mean(0)
    return AttentionRow(joint.view(logits.shape[1:]), per_frame.view(logits.shape[1:]))


def _check(
    shape: tuple[int, ...], token: tuple[int, int, int, int], num_heads: int, heads: tuple[int, ...] | None
) -> None:
    for name, index, count in zip(("view", "frame", "row", "column"), token, shape, strict=True):
        if not 0 <= index < count:
            raise ValueError(f"the query's {name} {index} does not exist: it must lie in [0, {count - 1}]")
    if heads is not None and (not heads or not all(0 <= head < num_heads for head in heads)):
        raise ValueError(f"heads {heads} do not exist: this layer has heads 0 .. {num_heads - 1}")
