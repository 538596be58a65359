"""The learned blend: how much of the source warped, of its other moments, and of the generated picture."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from mvtrack.models.refiner.unet import UNet

SOURCES = 3  # warped from this moment, from other moments, generated
_PICTURE_CHANNELS = 3 + 3 + 1 + 1 + 1 + 1 + 1
_SMALL_CHANNELS = 3 + 1 + 1
_PARALLAX = 10.0  # pixels of the picture at which its size saturates
_PRIOR = 2.0  # logit by which what is seen goes before what is generated, at the start


class Blend(nn.Module):
    """channels: of the U-Net's levels, the first at half the picture's size."""

    def __init__(self, channels: Sequence[int] = (32, 64, 96, 128)) -> None:
        super().__init__()
        self.read = nn.Conv2d(4 * _PICTURE_CHANNELS + _SMALL_CHANNELS, channels[0], 3, padding=1)
        self.unet = UNet(channels)
        self.write = nn.Sequential(nn.SiLU(), nn.Conv2d(channels[0], 4 * (SOURCES + 3), 3, padding=1))
        nn.init.zeros_(self.write[-1].weight)
        nn.init.zeros_(self.write[-1].bias)

    def forward(
        self, warped: Float[Tensor, "B 2 3 H W"], seen: Float[Tensor, "B 2 H W"], generated: Float[Tensor, "B 3 h w"],
        inverse_depth: Float[Tensor, "B H W"], confidence: Float[Tensor, "B H W"], measured: Float[Tensor, "B"],
        parallax_px: Float[Tensor, "B"],
    ) -> tuple[Float[Tensor, "B 3 H W"], Float[Tensor, "B 3 H W"]]:  # fmt: skip
        """Weights that add up to one, and what is added to the generated picture, H = 2 h.

        warped, seen: from this moment and from others, with how likely each pixel is seen there. measured: 1 where
        depth was given, 0 where it was estimated. parallax_px: by which the target shifts what is at the subject.
        """
        difference = (warped[:, 0] - F.interpolate(generated, warped.shape[-2:], mode="bilinear")).abs().mean(1)
        maps = torch.cat(
            [warped.flatten(1, 2), seen, inverse_depth[:, None], confidence[:, None], difference[:, None]], 1
        )
        facts = torch.stack([measured, torch.tanh(parallax_px / _PARALLAX)], 1)[..., None, None]
        facts = facts.expand(-1, -1, *generated.shape[-2:])
        x = torch.cat([F.pixel_unshuffle(maps, 2), generated, facts], 1)
        logits, residual = F.pixel_shuffle(self.write(self.unet(self.read(x))), 2).split([SOURCES, 3], 1)
        prior = torch.cat(
            [(seen + 1e-3).log() + seen.new_tensor([_PRIOR, _PRIOR / 2])[:, None, None], torch.zeros_like(seen[:, :1])],
            1,
        )
        return (logits + prior).softmax(1), residual
