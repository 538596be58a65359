"""Three-axis rotary position embedding with real-valued cosines and sines (Wan2.1's layout)."""

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor


def default_pairs(head_dim: int) -> tuple[int, int, int]:
    """Rotated channel pairs for (frame, row, column): Wan gives a third of the head to row and column each."""
    spatial = head_dim // 3 // 2
    return head_dim // 2 - 2 * spatial, spatial, spatial


def axis_frequencies(pairs: tuple[int, int, int], theta: float) -> list[Float[Tensor, "n"]]:
    """Angular frequency of each pair, radians per position; theta's exponent uses the axis's own width.

    Always on the CPU, also where modules are built without storage.
    """
    return [theta ** -(torch.arange(n, dtype=torch.float64, device="cpu") / n) for n in pairs]


def rope_table(
    frame_positions: Float[Tensor, "F"], grid: tuple[int, int], frequencies: list[Tensor]
) -> tuple[Float[Tensor, "N pairs"], Float[Tensor, "N pairs"]]:
    """cos and sin for F frames of grid (h, w) tokens, in token order frame, row, column (N = F h w).

    Angles are computed in float64 and stored in float32.
    """
    height, width = grid
    positions = (frame_positions.double(), torch.arange(height).double(), torch.arange(width).double())
    angles = [torch.outer(p.to(f.device), f.double()) for p, f in zip(positions, frequencies, strict=True)]
    shape = (len(frame_positions), height, width)
    full = torch.cat(
        [
            angles[0][:, None, None].expand(*shape, -1),
            angles[1][None, :, None].expand(*shape, -1),
            angles[2][None, None, :].expand(*shape, -1),
        ],
        -1,
    )
    full = rearrange(full, "f h w p -> (f h w) p")
    return full.cos().float(), full.sin().float()


def apply_rope(
    x: Float[Tensor, "B N H d"], cos: Float[Tensor, "*table pairs"], sin: Float[Tensor, "*table pairs"]
) -> Float[Tensor, "B N H d"]:
    """Rotate interleaved channel pairs (2i, 2i + 1) of every head. Computed in float32, returned in x's dtype.

    cos, sin: one row per token, (N, pairs), or one per sample, token and head, (B, N, H, pairs).
    """
    pairs = x.float().unflatten(-1, (-1, 2))
    if cos.ndim == 2:
        cos, sin = cos[:, None], sin[:, None]
    if torch.compiler.is_compiling():  # which fuses real numbers, and complex ones not
        even, odd = pairs.unbind(-1)
        turned = torch.stack([even * cos - odd * sin, even * sin + odd * cos], -1)
    else:  # nine times faster on a CPU than interleaving
        turned = torch.view_as_real(torch.view_as_complex(pairs) * torch.complex(cos, sin))
    return turned.flatten(-2).to(x.dtype)


def add_phase(
    cos: Float[Tensor, "N pairs"], sin: Float[Tensor, "N pairs"], phase: Float[Tensor, "B N H s"]
) -> tuple[Float[Tensor, "B N H pairs"], Float[Tensor, "B N H pairs"]]:
    """Tables turned further by a phase (radians) of each token and head. It turns the last s pairs, rows and columns;
    the frame pairs before them stay.
    """
    frame = cos.shape[-1] - phase.shape[-1]
    c, s = cos[:, None, frame:], sin[:, None, frame:]
    turned = c * phase.cos() - s * phase.sin(), s * phase.cos() + c * phase.sin()
    still = (table[:, None, :frame].expand(*phase.shape[:3], -1) for table in (cos, sin))
    cos, sin = (torch.cat(parts, -1) for parts in zip(still, turned, strict=True))
    return cos, sin


def apply_phase(x: Float[Tensor, "B N H d"], phase: Float[Tensor, "B N H s"]) -> Float[Tensor, "B N H d"]:
    """Rotate the last s channel pairs of every head by a phase (radians) and leave the others."""
    frame, spatial = x.split([x.shape[-1] - 2 * phase.shape[-1], 2 * phase.shape[-1]], -1)
    return torch.cat([frame, apply_rope(spatial, phase.cos(), phase.sin())], -1)
