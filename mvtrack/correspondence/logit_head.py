"""CAMEO's projection head: one learned distribution out of the logits of all heads (CAMEO §3.3, summary §4)."""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn


class LogitHead(nn.Module):
    """Pointwise MLP over the head axis, H -> 4H -> GELU -> 1, shared by all queries, keys and frames.

    Computes in the dtype of the logits, whatever its weights are stored in. The last bias cancels in the softmax; it is
    kept so that CAMEO's weights load.
    """

    def __init__(self, num_heads: int, seed: int = 0) -> None:
        super().__init__()
        self.num_heads = num_heads
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.mlp = nn.Sequential(_Linear(num_heads, 4 * num_heads), nn.GELU(), _Linear(4 * num_heads, 1))

    def forward(self, logits: Float[Tensor, "*rows H"]) -> Float[Tensor, "*rows"]:
        return self.mlp(logits)[..., 0]


class _Linear(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight.to(x.dtype), self.bias.to(x.dtype))
