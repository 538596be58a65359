"""An aligning decoder behind the tiny models' linear codec: three levels of convolutions with epipolar attention.

The codec's own picture comes first; what is added starts at zero. Every frame is decoded for itself: time lies in the
codec.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from mvtrack.models.decoder.epipolar_attention import EpipolarAttention, EpipolarConfig
from mvtrack.models.decoder.scene import DecoderScene
from mvtrack.models.pca_codec import VideoCodec

SHRINK = (4, 2, 1)  # of the picture, at each level
_GROUPS = 8


class SmallAligner(nn.Module):
    """width: channels at full resolution; twice as many at each coarser level. points: of each level's attention; none
    of them: a decoder that looks at one view at a time."""

    def __init__(
        self, width: int = 24, points: Sequence[int] = (7, 7, 7), dim: int = 32, sources: int = 1, reach: float = 1.0
    ) -> None:
        super().__init__()
        if len(points) not in (0, len(SHRINK)):
            raise ValueError(
                f"a small decoder has {len(SHRINK)} levels: give points for each or for none, not {points}"
            )
        self.settings = {"width": width, "points": list(points), "dim": dim, "sources": sources, "reach": reach}
        channels = [width * shrink for shrink in SHRINK]
        self.read = nn.ModuleList(nn.Conv2d(3 * s * s, c, 3, padding=1) for s, c in zip(SHRINK, channels, strict=True))
        self.grow = nn.ModuleList(nn.Conv2d(a, b, 3, padding=1) for a, b in zip(channels, channels[1:], strict=False))
        self.blocks = nn.ModuleList(ResidualBlock(c) for c in channels)
        configs = [EpipolarConfig(count, dim, sources, reach) for count in points]
        self.levels = nn.ModuleList(EpipolarAttention(c, x) for c, x in zip(channels, configs, strict=False))
        self.after = nn.ModuleList(ResidualBlock(c) for c in channels)
        self.write = nn.Conv2d(width, 3, 3, padding=1)
        nn.init.zeros_(self.write.weight)
        nn.init.zeros_(self.write.bias)

    def decode(
        self, codec: VideoCodec, latents: Float[Tensor, "V f c h w"], scene: DecoderScene,
        views: tuple[int, ...] | None = None,
    ) -> Float[Tensor, "V T 3 H W"]:  # fmt: skip
        """Videos of latents. views: those that ask the others; None: all. Raises ValueError for a picture that cannot
        be halved twice."""
        plain = codec.decode(latents[None])[0]
        frames = [[t] for t in range(plain.shape[1])]
        return torch.cat([self.frames(plain[:, t], scene, t, views) for t in frames], 1).clamp(-1, 1)

    def forward(
        self, codec: VideoCodec, latents: Float[Tensor, "V f c h w"], scene: DecoderScene, views: tuple[int, ...],
        count: int, generator: torch.Generator,
    ) -> tuple[list[int], Float[Tensor, "V N 3 H W"]]:  # fmt: skip
        """A training step's share of a clip: `count` frames drawn at random, and their numbers."""
        plain = codec.decode(latents[None])[0]
        at = sorted(torch.randperm(plain.shape[1], generator=generator)[:count].tolist())
        return at, self.frames(plain[:, at], scene, at, views, generator)

    def frames(
        self, plain: Float[Tensor, "V N 3 H W"], scene: DecoderScene, at: list[int],
        views: tuple[int, ...] | None = None, jitter: torch.Generator | None = None,
    ) -> Float[Tensor, "V N 3 H W"]:  # fmt: skip
        """Frames of all views, better than the codec's. at: which frames of the scene they are."""
        size, lead = plain.shape[-2:], plain.shape[:2]
        if any(side % SHRINK[0] for side in size):
            raise ValueError(f"pictures must be divisible by {SHRINK[0]}, got {size[0]}x{size[1]}")
        flat, x = plain.flatten(0, 1), 0.0
        for level, shrink in enumerate(SHRINK):
            if level:
                x = self.grow[level - 1](F.interpolate(x, scale_factor=2.0, mode="nearest"))
            x = self.blocks[level](x + self.read[level](F.pixel_unshuffle(flat, shrink)))
            if self.levels:
                here = scene.at(at, tuple(x.shape[-2:]))
                x = self.levels[level](x.unflatten(0, lead), here, views, jitter).flatten(0, 1)
            x = self.after[level](x)
        return (flat + self.write(x)).unflatten(0, lead)


class ResidualBlock(nn.Module):
    """Two convolutions beside the identity."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.GroupNorm(_GROUPS, channels), nn.SiLU(), nn.Conv2d(channels, channels, 3, padding=1),
            nn.GroupNorm(_GROUPS, channels), nn.SiLU(), nn.Conv2d(channels, channels, 3, padding=1),
        )  # fmt: skip

    def forward(self, x: Float[Tensor, "B C h w"]) -> Float[Tensor, "B C h w"]:
        return x + self.layers(x)
