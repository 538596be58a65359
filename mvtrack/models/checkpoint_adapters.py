"""What released checkpoints bring beside Wan's own layers: an image branch and an adapter for camera maps."""

from typing import NamedTuple

import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

ADAPTER_STRIDE = 8  # pixels that the adapter folds into channels, the stride of Wan's VAE
ADAPTER_CHANNELS = 24  # six Plücker coordinates of the four frames of a latent frame


class NativeInputs(NamedTuple):
    """What the branches of a released checkpoint take; see `native_cameras.py` for how cameras become these.

    poses: of each view and latent frame, 3x4 row by row (ReCamMaster). maps: Plücker maps of every pixel (ReDirector).
    image: CLIP's tokens of the reference's first frame (ReDirector).
    """

    poses: Float[Tensor, "B V f 12"] | None = None
    maps: Float[Tensor, "B V f 24 H W"] | None = None
    image: Float[Tensor, "B M c"] | None = None


class ControlAdapter(nn.Module):
    """Full-resolution camera maps to one vector per token: pixels folded into channels, one strided convolution, one
    residual pair (Wan2.1-Fun-Control-Camera's layers and names).
    """

    def __init__(self, dim: int, patch: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(ADAPTER_CHANNELS * ADAPTER_STRIDE**2, dim, patch, patch)
        self.residual_blocks = nn.Sequential(ResidualPair(dim))

    def forward(self, maps: Float[Tensor, "B V f c H W"]) -> Float[Tensor, "B N D"]:
        batch, views, frames = maps.shape[:3]
        folded = F.pixel_unshuffle(maps.to(self.conv.weight.dtype).flatten(0, 2), ADAPTER_STRIDE)
        x = self.residual_blocks(self.conv(folded))
        return rearrange(x, "(b v f) d h w -> b (v f h w) d", b=batch, v=views, f=frames)


class ResidualPair(nn.Module):
    def __init__(self, dim: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(dim, dim, 3, padding=1)
        self.conv2 = nn.Conv2d(dim, dim, 3, padding=1)

    def forward(self, x: Float[Tensor, "n d h w"]) -> Float[Tensor, "n d h w"]:
        return x + self.conv2(F.relu(self.conv1(x)))


class ImageEmbedding(nn.Module):
    """CLIP's image tokens to the transformer's width."""

    def __init__(self, image_dim: int, dim: int) -> None:
        super().__init__()
        self.proj = nn.Sequential(
            nn.LayerNorm(image_dim), nn.Linear(image_dim, image_dim), nn.GELU(), nn.Linear(image_dim, dim),
            nn.LayerNorm(dim),
        )  # fmt: skip

    def forward(self, image: Float[Tensor, "B M c"]) -> Float[Tensor, "B M D"]:
        return self.proj(image.to(self.proj[1].weight.dtype))
