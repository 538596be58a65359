"""Memory for time in training: which blocks forget their activations, and what a forgetful block keeps."""

from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.checkpoint import CheckpointPolicy, checkpoint, create_selective_checkpoint_contexts

from mvtrack.config.training import TrainConfig
from mvtrack.models.attention import attend
from mvtrack.models.blocks import Block, BlockConditioning, Heads


@dataclass(frozen=True)
class Checkpointing:
    """blocks: how many, from the first, are recomputed in the backward pass; None: all.

    keep: what such a block remembers. `attention` keeps the output of self-attention (as large as the block's input)
    and so spares the backward pass four fifths of the arithmetic of recomputing, at full size.
    """

    blocks: int | None = None
    keep: Literal["nothing", "attention"] = "nothing"

    def kept_by(self, layer: int) -> str | None:
        """What block `layer` keeps, None if it is not recomputed at all."""
        return self.keep if self.blocks is None or layer < self.blocks else None


def checkpointing_of(config: TrainConfig) -> Checkpointing | None:
    """What a run's settings ask for."""
    return Checkpointing(config.checkpoint_blocks, config.checkpoint_keep) if config.gradient_checkpointing else None


def run_block(
    block: Block, x: Tensor, conditioning: BlockConditioning, kernel: str, keep: str | None = None,
    wants_heads: bool = True,
) -> tuple[Tensor, Heads | None]:  # fmt: skip
    """One block, recomputed in the backward pass unless `keep` is None. wants_heads: see `Block.forward`.

    A compiled model compiles this function, so that the compiler sees what is to be kept.
    """
    if keep is None or not torch.is_grad_enabled():
        return block(x, conditioning, kernel, wants_heads)
    if keep == "nothing":
        return checkpoint(block, x, conditioning, kernel, wants_heads, use_reentrant=False)
    contexts = partial(create_selective_checkpoint_contexts, _keep_self_attention)
    return checkpoint(block, x, conditioning, kernel, wants_heads, use_reentrant=False, context_fn=contexts)


def keeps_attention(kernel: str, q: Float[Tensor, "B N H d"]) -> bool:
    """Whether `keep: attention` can recognise what a kernel computes from such queries.

    It goes by the names of PyTorch's operators, which a package need not register. q: shape,
    precision and device of one micro-batch's; it may have no storage (meta), then the CPU is meant.
    """
    device = "cpu" if q.device.type == "meta" else q.device
    few = torch.zeros(1, 64, *q.shape[2:], dtype=q.dtype, device=device)
    with _Watch() as watch, torch.no_grad():
        attend(few, few, few, kernel)
    return watch.kept


class _Watch(TorchDispatchMode):
    """Sees whether one of the operators that run would be kept."""

    def __init__(self) -> None:
        super().__init__()
        self.kept = False

    def __torch_dispatch__(self, operator, types, inputs=(), options=None):  # noqa: ANN001
        self.kept |= _keep_self_attention(None, operator, *inputs) == CheckpointPolicy.MUST_SAVE
        return operator(*inputs, **(options or {}))


def _keep_self_attention(_context, operator, *inputs, **_options) -> CheckpointPolicy:
    """Keep the result of attention kernels whose keys are those of the queries' tokens, and of references before
    them: text is shorter."""
    name = str(operator)
    kernels = ("scaled_dot_product", "flash_attn", "blocked_attention")
    is_attention = any(kernel in name for kernel in kernels) and "backward" not in name
    if is_attention and inputs[0].numel() <= inputs[1].numel():
        return CheckpointPolicy.MUST_SAVE
    return CheckpointPolicy.PREFER_RECOMPUTE
