"""From cameras to tokens: Plücker maps of every view, packed four frames to a latent frame, and a light encoder.

The maps are computed outside the network (`ray_maps`, float32); `RayEncoder` turns them into one vector per token,
which every block receives (MVTrack4Gen §5.1, method §1).
"""

import math

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from mvtrack.config.model import RayConfig
from mvtrack.data.clip import TEMPORAL_STRIDE, num_latent_frames
from mvtrack.geometry.camera import Camera, plucker_rays


def ray_maps(camera: Camera, config: RayConfig) -> Float[Tensor, "*B V f r hr wr"]:
    """Packed ray features of cameras (..., V, T): channels are [d, m] x 4 frames, raw, then sines and cosines.

    Latent frame 0 holds video frame 0 four times, latent frame i >= 1 the frames 4i-3 .. 4i.
    Poses must already be relative to the reference's first frame and divided by the scene's scale.
    """
    frames = camera.shape[-1]
    num_latent_frames(frames)
    maps = plucker_rays(camera, config.stride)
    maps = torch.cat([maps[..., :1, :, :, :].expand(*maps.shape[:-4], TEMPORAL_STRIDE - 1, -1, -1, -1), maps], -4)
    packed = rearrange(maps, "... (f k) h w c -> ... f (c k) h w", k=TEMPORAL_STRIDE)
    waves = [packed]
    for band in range(config.fourier_bands):
        angle = packed * (math.pi * 2 ** (band + 1))
        waves += [angle.sin(), angle.cos()]
    return torch.cat(waves, -3)


class RayEncoder(nn.Module):
    """Light convolutional encoder from ray maps at `stride` pixels to the token grid, `token_px` pixels a cell.

    The cells inside one token are folded into channels first, so every convolution runs on the token grid.
    """

    def __init__(self, config: RayConfig, dim: int) -> None:
        super().__init__()
        self.fold = config.token_px // config.stride
        hidden = config.hidden_dim or dim
        pad = config.kernel_size // 2
        self.net = nn.Sequential(
            nn.Conv2d(
                config.channels * self.fold**2, hidden, config.kernel_size, padding=pad, padding_mode="replicate"
            ),
            nn.SiLU(),
            nn.Conv2d(hidden, dim, 1),
        )

    def forward(self, maps: Float[Tensor, "B V f r hr wr"]) -> Float[Tensor, "B N D"]:
        batch, views, frames = maps.shape[:3]
        x = rearrange(maps, "b v f r (h p) (w q) -> (b v f) (r p q) h w", p=self.fold, q=self.fold)
        x = self.net(x.to(self.net[0].weight.dtype))
        return rearrange(x, "(b v f) d h w -> b (v f h w) d", b=batch, v=views, f=frames)
