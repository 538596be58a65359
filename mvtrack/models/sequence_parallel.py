"""Ulysses (Jacobs et al. 2023): every rank holds a part of the tokens, in attention all tokens of a part of the heads.

Parts are taken within each frame, so that rows of frames and views stay what they are on every rank.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
import torch.distributed as dist
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from mvtrack.models.blocks import BlockConditioning

Attend = Callable[[Tensor, Tensor, Tensor, str], Tensor]


class SequenceGroup:
    """The ranks that share one sample's tokens; None: this process alone.

    Gradients: all ranks compute the same loss from what `joined` gives them. Then the mean over ranks of a weight's
    gradients, which is what data parallelism takes, is the gradient of one process alone.
    """

    def __init__(self, group: dist.ProcessGroup | None) -> None:
        self.group = group
        self.size = 1 if group is None else dist.get_world_size(group)
        self.rank = 0 if group is None else dist.get_rank(group)

    def split(self, x: Float[Tensor, "B N D"], inputs: BlockConditioning) -> tuple[Tensor, BlockConditioning]:
        """This rank's tokens, and what the blocks get with them. Raises ValueError for frames whose tokens do not
        divide."""
        frames = inputs.views * inputs.frames
        per_frame = x.shape[1] // frames
        if per_frame % self.size:
            raise ValueError(f"{per_frame} tokens of a frame do not divide among {self.size} processes")

        def part(rows: Tensor | None, dim: int = 1) -> Tensor | None:
            if rows is None:
                return None
            cells = rows.unflatten(dim, (frames, self.size, -1))
            return cells.select(dim + 1, self.rank).flatten(dim, dim + 1).contiguous()

        cos, sin = inputs.rope
        rope = part(cos, 0), part(sin, 0)
        return part(x), inputs._replace(rope=rope, camera=part(inputs.camera), control=part(inputs.control))

    def joined(self, x: Float[Tensor, "B n *D"], frames: int) -> Float[Tensor, "B N *D"]:
        """All ranks' tokens, on every rank. frames: of all views together."""
        return rearrange(self._gathered(x), "p b (m n) ... -> b (m p n) ...", m=frames)

    def over_ranks(self, attend: Attend) -> Attend:
        """An attention of local tokens to those of all ranks."""

        def attend_by_heads(q: Tensor, k: Tensor, v: Tensor, kernel: str) -> Float[Tensor, "B n D"]:
            width = q.shape[-1]
            out = attend(*(self._tokens_for_heads(x) for x in (q, k, v)), kernel)
            back = rearrange(out, "b (p n) (h d) -> p b n h d", p=self.size, d=width)
            return rearrange(self._exchanged(back), "p b n h d -> b n (p h d)")

        return attend_by_heads

    def _tokens_for_heads(self, x: Float[Tensor, "B n H d"]) -> Float[Tensor, "B N h d"]:
        """All tokens (rank by rank) of this rank's heads."""
        parts = rearrange(x, "b n (p h) d -> p b n h d", p=self.size)
        return rearrange(self._exchanged(parts), "p b n h d -> b (p n) h d")

    def _exchanged(self, parts: Float[Tensor, "p *n"]) -> Float[Tensor, "p *n"]:
        """Part i goes to rank i."""
        return _Exchanged.apply(parts, self.group)

    def _gathered(self, x: Float[Tensor, "*n"]) -> Float[Tensor, "p *n"]:
        """Every rank's."""
        return _Gathered.apply(x, self.group, self.size)


class _Exchanged(torch.autograd.Function):
    """Gradients go back the way the parts came."""

    @staticmethod
    def forward(ctx, parts: Float[Tensor, "p *n"], group: dist.ProcessGroup) -> Float[Tensor, "p *n"]:
        ctx.group, parts = group, parts.contiguous()
        received = torch.empty_like(parts)
        dist.all_to_all_single(received, parts, group=group)
        return received

    @staticmethod
    def backward(ctx, gradient: Float[Tensor, "p *n"]) -> tuple[Float[Tensor, "p *n"], None]:
        return _Exchanged.apply(gradient, ctx.group), None


class _Gathered(torch.autograd.Function):
    """The gradient of a part is the sum over what every rank made of it."""

    @staticmethod
    def forward(ctx, x: Float[Tensor, "*n"], group: dist.ProcessGroup, size: int) -> Float[Tensor, "p *n"]:
        ctx.group, x = group, x.contiguous()
        parts = x.new_empty(size, *x.shape)
        dist.all_gather(list(parts.unbind()), x, group=group)
        return parts

    @staticmethod
    def backward(ctx, gradient: Float[Tensor, "p *n"]) -> tuple[Float[Tensor, "*n"], None, None]:
        return _Exchanged.apply(gradient, ctx.group).sum(0), None, None


class AloneOf(SequenceGroup):
    """The first of so many ranks, without the others: what it would receive has a shape and no values. For counting
    memory."""

    def __init__(self, size: int) -> None:
        self.group, self.size, self.rank = None, size, 0

    def _exchanged(self, parts: Float[Tensor, "p *n"]) -> Float[Tensor, "p *n"]:
        return parts.contiguous().clone()

    def _gathered(self, x: Float[Tensor, "*n"]) -> Float[Tensor, "p *n"]:
        return x[None].repeat(self.size, *(1 for _ in x.shape))


def share_tokens(dit: nn.Module, sequence: SequenceGroup) -> None:
    """From now on a WanDiT works on this rank's tokens. Raises ValueError for heads that do not divide."""
    if sequence.size == 1:
        return
    if dit.config.num_heads % sequence.size:
        raise ValueError(f"{dit.config.num_heads} heads do not divide among {sequence.size} processes")
    dit.sequence = sequence
    for block in dit.blocks:
        block.self_attn.attend = sequence.over_ranks(block.self_attn.attend)


@contextmanager
def sharing(dit: nn.Module, sequence: SequenceGroup) -> Iterator[None]:
    """`share_tokens` while open."""
    share_tokens(dit, sequence)
    try:
        yield
    finally:
        if dit.sequence is not None:
            dit.sequence = None
            for block in dit.blocks:
                del block.self_attn.attend


def exchanged_bytes(dim: int, layers: int, tokens: int, patch_values: int, ranks: int, itemsize: int) -> int:
    """What one rank sends in one pass: q, k, v and the output of every block's attention, of which only its own share
    stays; and its part of the prediction, to each of the others."""
    part = tokens // ranks
    return itemsize * (layers * 4 * part * dim * (ranks - 1) // ranks + part * patch_values * (ranks - 1))
