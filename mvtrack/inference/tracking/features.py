"""Attention features of videos that exist: one forward at a low noise level (method §5)."""

import torch
from jaxtyping import Float
from torch import Tensor

from mvtrack.geometry.camera import Camera
from mvtrack.inference.forward_noised import noised_latents
from mvtrack.models.dit import Tap
from mvtrack.models.prompts import Prompts, make_prompts
from mvtrack.models.reshoot_model import ReshootModel
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
    prompts: Prompts | None = None,
    start: Float[Tensor, "V 4 4"] | None = None,
) -> Features:
    """Queries and keys of the tapped block for videos of one scene, the first one the clean reference.

    video: RGB in [-1, 1], 4n + 1 frames. camera: (V, T). depth, scene_depth: see `model_cameras`. prompts,
    start: see `noised_videos`.
    """
    prompts = prompts or make_prompts(model.config, video[0, 0], device=model.device)
    latents = model.encode(video[None])[0].cpu()
    return latent_features(model, latents, camera, depth, scene_depth, sigma, seed, prompts, start)


@torch.no_grad()
def latent_features(
    model: ReshootModel,
    latents: Float[Tensor, "V f c h w"],
    camera: Camera,
    depth: Float[Tensor, "V T H W"] | None = None,
    scene_depth: float | None = None,
    sigma: float = FEATURE_SIGMA,
    seed: int = 0,
    prompts: Prompts | None = None,
    start: Float[Tensor, "V 4 4"] | None = None,
) -> Features:
    """The same from clean latents, as generating leaves them. camera: (V, T) at video rate. Features are on the CPU."""
    layer = model.config.tap_layer
    noised = noised_latents(model, latents, camera, depth, scene_depth, seed, None, prompts, start)
    tap: Tap = noised.forward(model, sigma, tap_layers=(layer,)).taps[0]
    return Features(tap.q[0].float().cpu(), tap.k[0].float().cpu(), model.config.rays.token_px)
