"""Ulysses (Jacobs et al. 2023): every rank holds a part of the tokens, in attention all tokens of a part of the heads.

Parts are taken within each frame, so that rows of frames and views stay what they are on every rank.
"""

from collections.abc import Callable

import torch
import torch.distributed as dist
from einops import rearrange
from jaxtyping import Float
from torch import Tensor

from mvtrack.models.blocks import BlockConditioning

Attend = Callable[[Tensor, Tensor, Tensor, str], Tensor]


class SequenceGroup:
    """The ranks that share one sample's tokens; None: this process alone. Inference only."""

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

    def joined(self, x: Float[Tensor, "B n D"], frames: int) -> Float[Tensor, "B N D"]:
        """All ranks' tokens, on every rank. frames: of all views together."""
        parts = self._gathered(x.contiguous())
        return rearrange(torch.stack(parts), "p b (m n) d -> b (m p n) d", m=frames)

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
        parts, received = parts.contiguous(), torch.empty_like(parts, memory_format=torch.contiguous_format)
        dist.all_to_all_single(received, parts, group=self.group)
        return received

    def _gathered(self, x: Tensor) -> list[Tensor]:
        """Every rank's."""
        parts = [torch.empty_like(x) for _ in range(self.size)]
        dist.all_gather(parts, x, group=self.group)
        return parts


class AloneOf(SequenceGroup):
    """The first of so many ranks, without the others: what it would receive has a shape and no values. For counting
    memory."""

    def __init__(self, size: int) -> None:
        self.group, self.size, self.rank = None, size, 0

    def _exchanged(self, parts: Float[Tensor, "p *n"]) -> Float[Tensor, "p *n"]:
        return torch.empty_like(parts.contiguous())

    def _gathered(self, x: Tensor) -> list[Tensor]:
        return [torch.empty_like(x) for _ in range(self.size)]


def exchanged_bytes(dim: int, layers: int, tokens: int, patch_values: int, ranks: int, itemsize: int) -> int:
    """What one rank sends in one pass: q, k, v and the output of every block's attention, of which only its own share
    stays; and its part of the prediction, to each of the others."""
    part = tokens // ranks
    return itemsize * (layers * 4 * part * dim * (ranks - 1) // ranks + part * patch_values * (ranks - 1))
