"""References that do not look at the targets (`dit.reference_attention: own`): what they pass on depends neither on the
targets nor on their noise, so a sampling computes it once. With as many tokens of either, a pass then costs half.
"""

from collections.abc import Callable, Iterable
from typing import NamedTuple

import torch
from torch import Tensor

from mvtrack.models.activation_checkpointing import Checkpointing
from mvtrack.models.blocks import Block, BlockConditioning, Context, Heads


class ReferencePass(NamedTuple):
    """What the references' own way through all blocks leaves. contexts: one a block, for the targets. tapped: q and k,
    hidden: what a block returns, of layers that were asked for."""

    contexts: tuple[Context, ...]
    tapped: dict[int, tuple[Tensor, Tensor]]
    hidden: dict[int, Tensor]

    def before(self, layer: int, q: Tensor, k: Tensor, hidden: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """What a tapped layer gave of the targets, after what it gave of the references."""
        pairs = zip((*self.tapped[layer], self.hidden[layer]), (q, k, hidden), strict=True)
        return tuple(torch.cat(pair, 1) for pair in pairs)


class ReferenceCache:
    """For one sampling. Set as `WanDiT.reference_cache`; whoever samples names the branch before each pass (guidance
    has two, whose captions the references see)."""

    def __init__(self) -> None:
        self._passes: dict[int, ReferencePass] = {}
        self.key = 0

    def branch(self, key: int) -> None:
        self.key = key

    def pass_of(self, compute: Callable[[], ReferencePass]) -> ReferencePass:
        """The branch's, computed where it is its first."""
        if self.key not in self._passes:
            self._passes[self.key] = compute()
        return self._passes[self.key]


def run_references(
    blocks: Iterable[Block], x: Tensor, inputs: BlockConditioning, run: Callable[..., tuple[Tensor, Heads]],
    checkpointing: Checkpointing | None, tap_layers: tuple[int, ...],
) -> ReferencePass:  # fmt: skip
    """x: (B, N, D), the references' tokens. inputs: of their views, at noise level 0. run: of a block, its kernel
    chosen."""
    contexts, tapped, hidden = [], {}, {}
    inputs = inputs._replace(returns_values=True)
    for layer, block in enumerate(blocks):
        keep = None if checkpointing is None else checkpointing.kept_by(layer)
        x, heads = run(block, x, inputs, keep)
        contexts.append(Context(heads.k, heads.v, inputs.views))
        if layer in tap_layers:
            tapped[layer], hidden[layer] = heads.tapped, x
    return ReferencePass(tuple(contexts), tapped, hidden)
