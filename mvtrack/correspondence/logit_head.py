"""CAMEO's projection head: one learned distribution out of the logits of all heads (CAMEO §3.3, summary §4)."""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn


class Projection(NamedTuple):
    """A logit head's weights as plain tensors of the autograd graph, and what they do to logits.

    A loss can use them after the network's forward pass, when ZeRO-3 has put the parameters themselves away.
    """

    weight_in: Float[Tensor, "4H H"]
    bias_in: Float[Tensor, "4H"]
    weight_out: Float[Tensor, "1 4H"]
    bias_out: Float[Tensor, "1"]

    @property
    def num_heads(self) -> int:
        return self.weight_in.shape[1]

    def __call__(self, logits: Float[Tensor, "*rows H"]) -> Float[Tensor, "*rows"]:
        """One logit from those of all heads, computed in their dtype, whatever the weights are stored in."""
        w_in, b_in, w_out, b_out = (x.to(logits.dtype) for x in self)
        return F.linear(F.gelu(F.linear(logits, w_in, b_in)), w_out, b_out)[..., 0]


class LogitHead(nn.Module):
    """Pointwise MLP over the head axis, H -> 4H -> GELU -> 1, shared by all queries, keys and frames.

    The last bias cancels in the softmax; it is kept so that CAMEO's weights load. Its weights start positive, so that a
    higher logit of any head means a higher one here: with signs as they come, the loss may be lowered by attention that
    avoids the true cell.
    """

    def __init__(self, num_heads: int, seed: int = 0) -> None:
        super().__init__()
        self.num_heads = num_heads
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.mlp = nn.ModuleDict(
                {"0": _WeightReader(num_heads, 4 * num_heads), "2": _WeightReader(4 * num_heads, 1)}
            )
        with torch.no_grad():
            for layer in self.mlp.values():
                layer.weight.abs_()  # type: ignore[operator]

    def projection(self) -> Projection:
        """Copies of the weights, with gradients back to them."""
        return Projection(*self.mlp["0"](), *self.mlp["2"]())

    def forward(self, logits: Float[Tensor, "*rows H"]) -> Float[Tensor, "*rows"]:
        return self.projection()(logits)


class _WeightReader(nn.Linear):
    """A linear layer whose forward pass returns its weights: a call, so that ZeRO-3 gathers them first."""

    def forward(self) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        return self.weight.clone(), self.bias.clone()
