"""One Wan transformer block: modulated self-attention with a camera input, cross-attention to text, feed-forward."""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from mvtrack.backbone.rope import apply_rope

PLAIN_SCORES_LIMIT = 2**26  # 128 MiB of bfloat16 scores
CACHED_SCORES = 2**20 * 3 // 2  # scores in one piece: 3 MiB of bfloat16


class RMSNorm(nn.Module):
    """RMS normalisation over the full width (all heads together), in float32."""

    def __init__(self, dim: int, eps: float) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(dim))

    def forward(self, x: Float[Tensor, "*b d"]) -> Float[Tensor, "*b d"]:
        wide = x.float()
        return (wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + self.eps) * self.weight.float()).to(x.dtype)


class Heads(NamedTuple):
    """Query and key handed to attention, after normalisation and RoPE, heads split."""

    q: Float[Tensor, "B N H d"]
    k: Float[Tensor, "B N H d"]


def attend(
    q: Float[Tensor, "B N H d"], k: Float[Tensor, "B M H d"], v: Float[Tensor, "B M H d"]
) -> Float[Tensor, "B N D"]:
    """Softmax attention by a fused kernel that never materialises the scores.

    One exception: bfloat16 on a CPU with few tokens, where plain matrix products on pieces that stay in the cache
    are 2-4 times faster than PyTorch's fused kernel (`benchmarks/attention_cpu.py`).
    """
    q, k, v = (rearrange(x, "b n h d -> b h n d") for x in (q, k, v))
    row_scores = q.shape[0] * q.shape[1] * k.shape[2]
    if q.device.type == "cpu" and q.dtype == torch.bfloat16 and row_scores * q.shape[2] <= PLAIN_SCORES_LIMIT:
        rows = max(64, CACHED_SCORES // row_scores)
        with torch.autocast("cpu", enabled=False):
            pieces = (q * q.shape[-1] ** -0.5).split(rows, dim=2)
            out = torch.cat([(piece @ k.mT).softmax(-1) @ v for piece in pieces], dim=2)
    else:
        out = F.scaled_dot_product_attention(q, k, v)
    return rearrange(out, "b h n d -> b n (h d)")


class SelfAttention(nn.Module):
    def __init__(self, dim: int, num_heads: int, eps: float) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.q = nn.Linear(dim, dim)
        self.k = nn.Linear(dim, dim)
        self.v = nn.Linear(dim, dim)
        self.o = nn.Linear(dim, dim)
        self.norm_q = RMSNorm(dim, eps)
        self.norm_k = RMSNorm(dim, eps)

    def forward(self, x: Float[Tensor, "B N D"], rope: tuple[Tensor, Tensor]) -> tuple[Float[Tensor, "B N D"], Heads]:
        q, k, v = (
            t.unflatten(-1, (self.num_heads, -1)) for t in (self.norm_q(self.q(x)), self.norm_k(self.k(x)), self.v(x))
        )
        q, k = apply_rope(q, *rope).to(v.dtype), apply_rope(k, *rope).to(v.dtype)
        return self.o(attend(q, k, v)), Heads(q, k)


class CrossAttention(nn.Module):
    def __init__(self, dim: int, num_heads: int, eps: float) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.q = nn.Linear(dim, dim)
        self.k = nn.Linear(dim, dim)
        self.v = nn.Linear(dim, dim)
        self.o = nn.Linear(dim, dim)
        self.norm_q = RMSNorm(dim, eps)
        self.norm_k = RMSNorm(dim, eps)

    def forward(self, x: Float[Tensor, "B N D"], text: Float[Tensor, "B L D"]) -> Float[Tensor, "B N D"]:
        q, k, v = (
            t.unflatten(-1, (self.num_heads, -1))
            for t in (self.norm_q(self.q(x)), self.norm_k(self.k(text)), self.v(text))
        )
        return self.o(attend(q.to(v.dtype), k.to(v.dtype), v))


def modulate(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """AdaLN: scale and shift a normalised tensor."""
    return x * (1 + scale) + shift


class Block(nn.Module):
    """Wan's block with Wan's parameter names; `camera_proj` is this project's Plücker input (MVTrack4Gen eq. 10).

    has_text=False leaves the cross-attention out; has_camera=False leaves the camera projection out.
    """

    def __init__(
        self, dim: int, ffn_dim: int, num_heads: int, eps: float, has_text: bool = True, has_camera: bool = True
    ) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=eps, elementwise_affine=False)
        self.self_attn = SelfAttention(dim, num_heads, eps)
        if has_text:
            self.norm3 = nn.LayerNorm(dim, eps=eps)
            self.cross_attn = CrossAttention(dim, num_heads, eps)
        self.norm2 = nn.LayerNorm(dim, eps=eps, elementwise_affine=False)
        self.ffn = nn.Sequential(nn.Linear(dim, ffn_dim), nn.GELU(approximate="tanh"), nn.Linear(ffn_dim, dim))
        self.modulation = nn.Parameter(torch.randn(1, 6, dim) / dim**0.5)
        if has_camera:
            self.camera_proj = nn.Linear(dim, dim)

    def forward(
        self,
        x: Float[Tensor, "B N D"],
        time: Float[Tensor, "B 6 D"],
        rope: tuple[Tensor, Tensor],
        text: Float[Tensor, "B L D"] | None = None,
        camera: Float[Tensor, "B N D"] | None = None,
    ) -> tuple[Float[Tensor, "B N D"], Heads]:
        shift1, scale1, gate1, shift2, scale2, gate2 = (self.modulation + time).chunk(6, dim=1)
        h = modulate(self.norm1(x), shift1, scale1)
        if camera is not None:
            h = h + self.camera_proj(camera)
        attended, heads = self.self_attn(h, rope)
        x = x + gate1 * attended
        if text is not None:
            x = x + self.cross_attn(self.norm3(x), text)
        return x + gate2 * self.ffn(modulate(self.norm2(x), shift2, scale2)), heads
