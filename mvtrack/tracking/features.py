"""Attention features of videos that exist: one forward at a low noise level (method §5)."""

import torch
from jaxtyping import Float
from torch import Tensor

from mvtrack.backbone.dit import Tap
from mvtrack.backbone.model import ReshootModel, model_cameras
from mvtrack.backbone.native_cameras import native_inputs
from mvtrack.backbone.ray_encoder import ray_maps
from mvtrack.camera import Camera
from mvtrack.diffusion.flow import add_noise
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
    scaled, _ = model_cameras(camera, model.config.rays, depth, scene_depth)
    noise = torch.randn((1, *latents.shape), generator=torch.Generator().manual_seed(seed))
    level = torch.tensor([sigma])
    noisy = torch.cat([latents[None, :1], add_noise(latents[None], noise, level)[:, 1:]], 1)
    layer = model.config.tap_layer
    native = native_inputs(camera[None], model.config.dit, model.config.native_camera)
    rays = ray_maps(scaled, model.config.rays)[None]
    output = model.dit(noisy, 1000 * level, rays, tap_layers=(layer,), native=native)
    tap: Tap = output.taps[0]
    return Features(tap.q[0], tap.k[0], model.config.rays.token_px)
