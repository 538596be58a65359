"""The small U-Net that both parts of the refiner are made of."""

from collections.abc import Sequence

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

_GROUPS = 8


class GroupNormBlock(nn.Module):
    """Two 3x3 convolutions on a residual branch that starts at zero."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.GroupNorm(_GROUPS, channels), nn.SiLU(), nn.Conv2d(channels, channels, 3, padding=1),
            nn.GroupNorm(_GROUPS, channels), nn.SiLU(), nn.Conv2d(channels, channels, 3, padding=1),
        )  # fmt: skip
        nn.init.zeros_(self.layers[-1].weight)
        nn.init.zeros_(self.layers[-1].bias)

    def forward(self, x: Float[Tensor, "B C h w"]) -> Float[Tensor, "B C h w"]:
        return x + self.layers(x)


class UNet(nn.Module):
    """Features of the same size. channels: of each level, each half as large as the one before; any size is taken."""

    def __init__(self, channels: Sequence[int]) -> None:
        super().__init__()
        pairs = list(zip(channels, channels[1:], strict=False))
        self.encode = nn.ModuleList(GroupNormBlock(c) for c in channels)
        self.shrink = nn.ModuleList(nn.Conv2d(a, b, 3, stride=2, padding=1) for a, b in pairs)
        self.grow = nn.ModuleList(nn.Conv2d(b, a, 1) for a, b in pairs)
        self.decode = nn.ModuleList(GroupNormBlock(c) for c in channels[:-1])

    def forward(self, x: Float[Tensor, "B C h w"]) -> Float[Tensor, "B C h w"]:
        skips = []
        for block, shrink in zip(self.encode[:-1], self.shrink, strict=True):
            skips.append(block(x))
            x = shrink(skips[-1])
        x = self.encode[-1](x)
        for block, grow, skip in zip(reversed(self.decode), reversed(self.grow), reversed(skips), strict=True):
            x = block(skip + F.interpolate(grow(x), skip.shape[-2:], mode="bilinear", align_corners=False))
        return x
