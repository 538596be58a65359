"""Videos that exist, at any noise level: what the transformer sees of them in training, for looking into it."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from mvtrack.backbone.branches import NativeInputs
from mvtrack.backbone.dit import DiTOutput
from mvtrack.backbone.model import ReshootModel, model_cameras
from mvtrack.backbone.native_cameras import native_inputs
from mvtrack.backbone.ray_encoder import ray_maps
from mvtrack.camera import Camera
from mvtrack.diffusion.flow import add_noise


@dataclass(frozen=True)
class NoisedVideos:
    """One scene's views, the first one the clean reference, with one draw of noise for all levels."""

    latents: Float[Tensor, "1 V f c h w"]
    noise: Float[Tensor, "1 V f c h w"]
    rays: Float[Tensor, "1 V f r hr wr"]
    native: NativeInputs | None = None

    @torch.no_grad()
    def forward(self, model: ReshootModel, sigma: float) -> DiTOutput:
        """Run the transformer once with the target views at noise level `sigma`."""
        level = torch.tensor([sigma])
        noisy = torch.cat([self.latents[:, :1], add_noise(self.latents, self.noise, level)[:, 1:]], 1)
        return model.dit(noisy, 1000 * level, self.rays, native=self.native)


@torch.no_grad()
def noised_videos(
    model: ReshootModel,
    video: Float[Tensor, "V T 3 H W"],
    camera: Camera,
    depth: Float[Tensor, "V T H W"] | None = None,
    scene_depth: float | None = None,
    seed: int = 0,
) -> NoisedVideos:
    """Encode videos (RGB in [-1, 1], 4n + 1 frames) and cameras (V, T). depth, scene_depth: see `model_cameras`."""
    latents = model.codec.encode(video[None])
    scaled, _ = model_cameras(camera[None], model.config.rays, None if depth is None else depth[None], scene_depth)
    noise = torch.randn(latents.shape, generator=torch.Generator().manual_seed(seed))
    native = native_inputs(camera[None], model.config.dit, model.config.native_camera)
    return NoisedVideos(latents, noise, ray_maps(scaled, model.config.rays), native)
