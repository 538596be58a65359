"""Attention features of videos that exist: one forward at a low noise level (method §5)."""

import torch
from jaxtyping import Float
from torch import Tensor

from mvtrack.backbone.dit import Tap
from mvtrack.backbone.model import ReshootModel
from mvtrack.camera import Camera
from mvtrack.noised import noised_latents
from tracking_head import Features

FEATURE_SIGMA = 0.1


@torch.no_grad()
def view_features(
    model: ReshootModel,
    video: Float[Tensor, "V T 3 H W"],
    camera: Camera,
    depth: Float[Tensor, "V T H W"] | None = None,
    scene_depth: float | None = None,
    sigma: float = FEATURE_SIGMA,
    seed: int = 0,
) -> Features:
    """Queries and keys of the tapped block for videos of one scene, the first one the clean reference.

    video: RGB in [-1, 1], 4n + 1 frames. camera: (V, T). depth, scene_depth: see `model_cameras`.
    """
    latents = model.codec.encode(video[None])[0]
    return latent_features(model, latents, camera, depth, scene_depth, sigma, seed)


@torch.no_grad()
def latent_features(
    model: ReshootModel,
    latents: Float[Tensor, "V f c h w"],
    camera: Camera,
    depth: Float[Tensor, "V T H W"] | None = None,
    scene_depth: float | None = None,
    sigma: float = FEATURE_SIGMA,
    seed: int = 0,
) -> Features:
    """The same from clean latents, as generating leaves them. camera: (V, T) at video rate."""
    layer, noised = model.config.tap_layer, noised_latents(model, latents, camera, depth, scene_depth, seed)
    tap: Tap = noised.forward(model, sigma, tap_layers=(layer,)).taps[0]
    return Features(tap.q[0], tap.k[0], model.config.rays.token_px)
