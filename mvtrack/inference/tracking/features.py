"""Attention features of videos that exist: one forward at a low noise level (method §5)."""

import torch
from jaxtyping import Float
from torch import Tensor

from mvtrack.inference.forward_noised import NoisedVideos, noised_latents, noised_videos
from mvtrack.models.conditioning import Window
from mvtrack.models.reshoot_model import ReshootModel
from tracking_head import Features

FEATURE_SIGMA = 0.1


@torch.no_grad()
def view_features(
    model: ReshootModel, video: Float[Tensor, "V T 3 H W"], window: Window, sigma: float = FEATURE_SIGMA, seed: int = 0
) -> Features:
    """Queries and keys of the tapped block for videos of one scene, the first one the clean reference.

    video: RGB in [-1, 1], 4n + 1 frames.
    """
    return _features(model, noised_videos(model, video, window, seed), sigma)


@torch.no_grad()
def latent_features(
    model: ReshootModel, latents: Float[Tensor, "V f c h w"], window: Window, sigma: float = FEATURE_SIGMA,
    seed: int = 0,
) -> Features:  # fmt: skip
    """The same from clean latents, as generating leaves them. Features are on the CPU."""
    return _features(model, noised_latents(model, latents, window, seed), sigma)


def _features(model: ReshootModel, videos: NoisedVideos, sigma: float) -> Features:
    [tap] = videos.forward(model, sigma, tap_layers=(model.config.tap_layer,)).taps
    return Features(tap.q[0].float().cpu(), tap.k[0].float().cpu(), model.config.rays.token_px)
