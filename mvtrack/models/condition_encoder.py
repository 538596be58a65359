"""CAMEO's condition encoder: mask and rays at every pixel to features at an eighth of the size."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from mvtrack.models.depth_priors import POSITION_CHANNELS

_WIDTHS, _GROUPS = (32, 64, 128, 256), (8, 16, 32, 64)
CONDITION_CHANNELS = 7  # the mask and six Plücker coordinates


class ConditionTrunk(nn.Module):
    """Four convolutions, each with group norm and SiLU, the last three of stride 2."""

    def __init__(self, channels: int = CONDITION_CHANNELS) -> None:
        super().__init__()
        before = channels
        for i, (width, groups) in enumerate(zip(_WIDTHS, _GROUPS, strict=True)):
            layers = (
                nn.Conv2d(before, width, 3, 1 if i == 0 else 2, 1),
                nn.GroupNorm(groups, width, eps=1e-6),
                nn.SiLU(),
            )
            setattr(self, f"conv{i + 1}", nn.Sequential(*layers))
            before = width

    def trunk(self, condition: Float[Tensor, "n C H W"]) -> Float[Tensor, "n 256 h w"]:
        x = condition.to(self.conv1[0].weight.dtype)
        return self.conv4(self.conv3(self.conv2(self.conv1(x))))


class ConditionEncoder(ConditionTrunk):
    """Features that are added to a U-Net's first convolution; zero at first."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv_out = nn.Conv2d(_WIDTHS[-1], channels, 3, 1, 1)
        nn.init.zeros_(self.conv_out.weight)
        nn.init.zeros_(self.conv_out.bias)

    def forward(self, condition: Float[Tensor, "n 7 H W"]) -> Float[Tensor, "n c h w"]:
        return self.conv_out(self.trunk(condition))


class PriorConditionEncoder(ConditionTrunk):
    """MVGenMaster's: it also takes colours carried from given views, and where their points lie, see `depth_priors`."""

    def __init__(self, channels: int) -> None:
        super().__init__(CONDITION_CHANNELS + 4)
        self.conv_out = nn.Sequential(
            nn.Conv2d(_WIDTHS[-1] + POSITION_CHANNELS, 512, 3, 1, 1), nn.GroupNorm(64, 512, eps=1e-6), nn.SiLU(),
            nn.Conv2d(512, channels, 3, 1, 1),
        )  # fmt: skip
        nn.init.zeros_(self.conv_out[-1].weight)
        nn.init.zeros_(self.conv_out[-1].bias)

    def forward(
        self,
        condition: Float[Tensor, "n 7 H W"],
        pixels: Float[Tensor, "n 4 H W"],
        positions: Float[Tensor, "n 193 h w"],
    ) -> Float[Tensor, "n c h w"]:
        features = self.trunk(torch.cat([condition, pixels.to(condition)], 1))
        return self.conv_out(torch.cat([features, positions.to(features)], 1))


class TokenConditionEncoder(ConditionTrunk):
    """Features of 2 x 2 latents as one vector that is added to a transformer's token; zero at first."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.fold = nn.PixelUnshuffle(2)
        self.proj = nn.Linear(4 * _WIDTHS[-1], dim)
        nn.init.zeros_(self.proj.weight)
        nn.init.zeros_(self.proj.bias)

    def forward(self, condition: Float[Tensor, "n 7 H W"]) -> Float[Tensor, "n N D"]:
        return self.proj(self.fold(self.trunk(condition)).flatten(2).mT)
