"""Pre-norm transformer blocks over short sequences, with a mask of what may be looked at."""

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from tracking_head.shapes import Bool, Float

_PART_BYTES = 256 * 2**20  # of the widest activations that exist at once where no gradients are wanted


class Attention(nn.Module):
    """Multi-head attention of x to a context (x itself by default)."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query = nn.Linear(dim, dim)
        self.key_value = nn.Linear(dim, 2 * dim)
        self.out = nn.Linear(dim, dim)

    def forward(
        self, x: Float[Tensor, "S n D"], context: Float[Tensor, "S m D"], allowed: Bool[Tensor, "S #n m"] | None = None
    ) -> Float[Tensor, "S n D"]:
        q = rearrange(self.query(x), "s n (h d) -> s h n d", h=self.heads)
        k, v = rearrange(self.key_value(context), "s m (two h d) -> two s h m d", two=2, h=self.heads)
        mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=None if allowed is None else allowed[:, None])
        return self.out(rearrange(mixed, "s h n d -> s n (h d)"))


class AttentionBlock(nn.Module):
    """Attention, then a two-layer MLP, each on a normalised copy and added. `cross`: attends to a context."""

    def __init__(self, dim: int, heads: int, mlp_ratio: float, cross: bool = False) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim, eps=1e-6, elementwise_affine=False)
        self.context_norm = nn.LayerNorm(dim) if cross else None
        self.attention = Attention(dim, heads)
        self.hidden = hidden = int(dim * mlp_ratio)
        self.mlp = nn.Sequential(nn.Linear(dim, hidden), nn.GELU(approximate="tanh"), nn.Linear(hidden, dim))

    def forward(
        self,
        x: Float[Tensor, "S n D"],
        context: Float[Tensor, "S m D"] | None = None,
        allowed: Bool[Tensor, "S #n m"] | None = None,
    ) -> Float[Tensor, "S n D"]:
        """allowed: which of the context (or of x) each position may look at; at least one everywhere.

        Without gradients a part of the sequences at a time, so that memory does not grow with their number.
        """
        longest = x.shape[1] if context is None else max(x.shape[1], context.shape[1])
        step = max(1, _PART_BYTES // (4 * longest * self.hidden))
        if torch.is_grad_enabled() or len(x) <= step:
            return self._together(x, context, allowed)
        parts = zip(*(len(x) * [None] if y is None else y.split(step) for y in (x, context, allowed)), strict=False)
        return torch.cat([self._together(*part) for part in parts])

    def _together(self, x: Tensor, context: Tensor | None, allowed: Tensor | None) -> Tensor:
        normed = self.norm(x)
        if context is not None and self.context_norm is not None:
            context = self.context_norm(context)
        x = x + self.attention(normed, normed if context is None else context, allowed)
        return x + self.mlp(self.norm(x))
