"""Depth of the source's frames: a network over planes of inverse depth, which sees the source and a cost volume.

With a result it is stereo between the source and that; with known cameras it adds the source's own parallax; with
neither it is a guess from one picture.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from mvtrack.geometry.camera import Camera, camera_rays, pixel_grid
from mvtrack.models.refiner.cost_volume import CHANNELS, PLANES, plane_inverse_depths
from mvtrack.models.refiner.unet import UNet

_SHARPNESS = 10.0  # with which a cost counts against its plane, times what is learned
_BOX = 5  # cells over which costs are averaged then
_WINDOW = 2  # planes around the best that are averaged


class SourceDepth(nn.Module):
    """channels: of the U-Net's levels. The picture is twice the cost volume's size, and so is what comes out."""

    def __init__(self, channels: Sequence[int] = (32, 64, 96, 128)) -> None:
        super().__init__()
        width = channels[0]
        self.picture = nn.Sequential(
            nn.Conv2d(5, width // 2, 3, padding=1), nn.SiLU(), nn.Conv2d(width // 2, width, 3, stride=2, padding=1)
        )
        self.costs = nn.Conv2d(CHANNELS, width, 1)
        self.join = nn.Conv2d(2 * width, width, 3, padding=1)
        self.unet = UNet(channels)
        self.planes = nn.Sequential(nn.SiLU(), nn.Conv2d(width, PLANES, 3, padding=1))
        self.weights = nn.Sequential(nn.SiLU(), nn.Conv2d(width, 4 * 9, 3, padding=1))
        self.sharpness = nn.Parameter(torch.ones(3))  # of each kind of cost

    def forward(
        self, picture: Float[Tensor, "B 3 H W"], cost: Float[Tensor, "B C h w"], camera: Camera
    ) -> tuple[Float[Tensor, "B P h w"], Float[Tensor, "B 2 H W"]]:
        """Logits of the planes, and inverse depth with confidence in [0, 1] at the picture's size, H = 2 h.

        camera: (B,) of the picture's size.
        """
        rays = camera_rays(pixel_grid(camera.size).to(picture), camera.K[:, None, None])[..., :2]
        seen = self.picture(torch.cat([picture, rearrange(rays, "b h w c -> b c h w")], 1))
        x = self.unet(self.join(torch.cat([seen, self.costs(4 * cost - 1)], 1)))
        kinds = cost[:, : 3 * PLANES].chunk(3, 1)
        weighted = _SHARPNESS * sum(s * c for s, c in zip(self.sharpness, kinds, strict=True))
        logits = self.planes(x) - F.avg_pool2d(F.pad(weighted, [_BOX // 2] * 4, mode="replicate"), _BOX, 1)
        return logits, convex_upsampled(expected_inverse_depth(logits), self.weights(x))


def expected_inverse_depth(logits: Float[Tensor, "B P h w"]) -> Float[Tensor, "B 2 h w"]:
    """Mean inverse depth around the most likely plane, and the probability that lies there."""
    probability = logits.softmax(1)
    index = torch.arange(PLANES, device=logits.device)[:, None, None]
    near = (index - logits.argmax(1, keepdim=True)).abs() <= _WINDOW
    mass = (probability * near).sum(1)
    mean = (probability * near * plane_inverse_depths(logits.device)[:, None, None]).sum(1) / mass
    return torch.stack([mean, mass], 1)


def convex_upsampled(maps: Float[Tensor, "B C h w"], weights: Float[Tensor, "B k h w"]) -> Float[Tensor, "B C H W"]:
    """Twice the size; each value a mean of its 3x3 neighbours with weights of its own (RAFT, Teed and Deng 2020)."""
    batch, channels, height, width = maps.shape
    weights = rearrange(weights, "b (n s) h w -> b 1 n s h w", n=9).softmax(2)
    patches = F.unfold(F.pad(maps, [1] * 4, mode="replicate"), 3).view(batch, channels, 9, 1, height, width)
    return rearrange((weights * patches).sum(2), "b c (p q) h w -> b c (h p) (w q)", p=2)
