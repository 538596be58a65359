"""Videos that exist, at any noise level: what the transformer sees of them in training, for looking into it."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from mvtrack.geometry.camera import Camera
from mvtrack.models.camera_conditioning import ray_maps
from mvtrack.models.checkpoint_adapters import NativeInputs
from mvtrack.models.diffusion.flow import add_noise, keep_references
from mvtrack.models.dit import DiTOutput
from mvtrack.models.prompts import Prompts, make_prompts
from mvtrack.models.released_cameras import native_inputs
from mvtrack.models.reshoot_model import ReshootModel, model_cameras


@dataclass(frozen=True)
class NoisedVideos:
    """One scene's views with one draw of noise for all levels. reference: which latent frames stay clean; None: the
    first view.
    """

    latents: Float[Tensor, "1 V f c h w"]
    noise: Float[Tensor, "1 V f c h w"]
    rays: Float[Tensor, "1 V f r hr wr"]
    native: NativeInputs | None = None
    reference: Bool[Tensor, "1 V f"] | None = None
    text: Float[Tensor, "1 L t"] | None = None

    @torch.no_grad()
    def forward(self, model: ReshootModel, sigma: float, tap_layers: tuple[int, ...] = ()) -> DiTOutput:
        """Run the transformer once with all but the references at noise level `sigma`."""
        level = torch.tensor([sigma])
        noisy = keep_references(self.latents, add_noise(self.latents, self.noise, level), self.reference)
        return model.run(noisy, level, self.rays, self.text, self.native, self.reference, tap_layers)


@torch.no_grad()
def noised_videos(
    model: ReshootModel,
    video: Float[Tensor, "V T 3 H W"],
    camera: Camera,
    depth: Float[Tensor, "V T H W"] | None = None,
    scene_depth: float | None = None,
    seed: int = 0,
    reference: Bool[Tensor, "1 V f"] | None = None,
    prompts: Prompts | None = None,
    start: Float[Tensor, "V 4 4"] | None = None,
) -> NoisedVideos:
    """Encode videos (RGB in [-1, 1], 4n + 1 frames) and cameras (V, T). depth, scene_depth: see `model_cameras`.

    prompts: see `make_prompts`; None is the empty caption, where the model takes captions. start: of a
    window's video, see `relative_cameras`.
    """
    prompts = prompts or make_prompts(model.config, video[0, 0], device=model.device)
    latents = model.encode(video[None])[0].cpu()
    return noised_latents(model, latents, camera, depth, scene_depth, seed, reference, prompts, start)


def noised_latents(
    model: ReshootModel,
    latents: Float[Tensor, "V f c h w"],
    camera: Camera,
    depth: Float[Tensor, "V T H W"] | None = None,
    scene_depth: float | None = None,
    seed: int = 0,
    reference: Bool[Tensor, "1 V f"] | None = None,
    prompts: Prompts | None = None,
    start: Float[Tensor, "V 4 4"] | None = None,
) -> NoisedVideos:
    """The same from clean latents, as generating leaves them. camera: (V, T) at video rate.

    Raises ValueError for a model with an image branch that is given no prompts: latents show no picture.
    """
    if prompts is None:
        prompts = make_prompts(model.config, None, device=model.device)
    scaled, _ = model_cameras(camera[None], model.config.rays, None if depth is None else depth[None], scene_depth)
    noise = torch.randn((1, *latents.shape), generator=torch.Generator().manual_seed(seed))
    text, image = (None if x is None else x[None] for x in (prompts.text, prompts.image))
    start = None if start is None else start[None]
    native = native_inputs(camera[None], model.config.dit, model.config.native_camera, image, start=start)
    return NoisedVideos(latents[None], noise, ray_maps(scaled, model.config.rays), native, reference, text)
