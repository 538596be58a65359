"""Queries and keys of any backbone as the loss and the probe take them: (B, V, f, h, w, heads, d)."""

from einops import rearrange
from jaxtyping import Float
from torch import Tensor


def features_from_tokens(
    tokens: Float[Tensor, "B N D"], views: int, frames: int, grid: tuple[int, int], num_heads: int
) -> Float[Tensor, "B V f h w heads d"]:
    """Split a flat sequence of image tokens (view, frame, row, column in this order) and its heads.

    Take tokens as they enter the attention: after its norm and position encoding, text tokens removed. A backbone that
    encodes F photographs is views=F, frames=1. Raises ValueError when tokens or heads do not divide.
    """
    expected = views * frames * grid[0] * grid[1]
    if tokens.shape[1] != expected:
        raise ValueError(
            f"{views} views x {frames} frames x {grid[0]}x{grid[1]} tokens are {expected}, got {tokens.shape[1]}"
        )
    if tokens.shape[2] % num_heads:
        raise ValueError(f"width {tokens.shape[2]} does not divide into {num_heads} heads")
    shape = {"v": views, "f": frames, "h": grid[0], "w": grid[1], "n": num_heads}
    return rearrange(tokens, "b (v f h w) (n d) -> b v f h w n d", **shape)
