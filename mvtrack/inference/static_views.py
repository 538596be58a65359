"""Model + some views of a still scene + cameras -> the other views (CAMEO, method §7)."""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from mvtrack.data.clip import num_latent_frames
from mvtrack.geometry.camera import Camera
from mvtrack.inference.sampler import SamplerOptions, check_guidance, matmul_precision
from mvtrack.models.camera_conditioning import ray_maps
from mvtrack.models.diffusion.flow import euler_steps, keep_references, velocity_from_x0
from mvtrack.models.reshoot_model import ReshootModel, model_cameras


@torch.no_grad()
def generate_views(
    model: ReshootModel,
    given: Float[Tensor, "R 3 H W"],
    camera: Camera,
    sample: SamplerOptions | None = None,
    depth: Float[Tensor, "H W"] | None = None,
    scene_depth: float | None = None,
    on_step: Callable[[], None] | None = None,
) -> Float[Tensor, "N 3 H W"]:
    """Generate the views that are not given, in the order of their cameras.

    given: RGB in [-1, 1], the first views; of a model for camera paths the first 4n + 1 frames of the path.
    camera: (R + N,), the given ones' first. depth: z-depth of the first given view; scene_depth: else the distance of
    what it shows, in the camera's unit. on_step: called after every sampling step.

    Raises ValueError for a model that re-shoots videos, and for other numbers of views than it makes.
    """
    sample = sample or SamplerOptions.of(model.config)
    layout = _layout(model, given, camera)
    check_guidance(model, sample)
    clean = model.encode(given.unflatten(0, (-1, 1))[None] if layout[1] == 1 else given[None, None])
    held = clean.shape[1] * clean.shape[2]
    shape = (1, *layout, *clean.shape[3:])
    reference = (torch.arange(layout[0] * layout[1]) < held).view(1, *layout).to(model.device)
    padded = torch.zeros(shape, device=model.device)
    padded[reference] = clean.flatten(0, 2)
    cameras = camera[:, None] if layout[1] == 1 else camera[None]
    scaled, _ = model_cameras(cameras, model.config.rays, None if depth is None else depth[None, None], scene_depth)
    rays = ray_maps(scaled, model.config.rays)[None]

    def predict(x: Tensor, sigma: Float[Tensor, "B"], rays: Tensor) -> Tensor:
        state = keep_references(padded, x, reference)
        with matmul_precision(model):
            output = model.run(state, sigma, rays, reference=reference).prediction.float()
        return velocity_from_x0(output, state, sigma) if model.config.flow.prediction == "x0" else output

    def velocity(x: Tensor, sigma: Float[Tensor, "B"]) -> Tensor:
        predicted = predict(x, sigma, rays)
        if sample.camera_guidance == 1:
            return predicted
        unguided = predict(x, sigma, torch.zeros_like(rays))
        return unguided + sample.camera_guidance * (predicted - unguided)

    latents = torch.randn(shape, generator=torch.Generator().manual_seed(sample.seed)).to(model.device)
    for latents in euler_steps(velocity, latents, sample.steps, model.config.flow.shift):  # noqa: B007, B020
        if on_step:
            on_step()
    views = model.decode(keep_references(padded, latents, reference)).flatten(0, 2)
    return views[len(given) :].clamp(-1, 1)


def _layout(model: ReshootModel, given: Tensor, camera: Camera) -> tuple[int, int]:
    """(V, f) of the latents. Raises ValueError when views and cameras are not those of the model."""
    views = model.config.views
    if views is None:
        raise ValueError("this model re-shoots videos, it makes no views of still scenes: use generate")
    frames = views.count if views.encoding == "images" else views.num_frames
    if camera.shape != (frames,) or not len(given) < frames:
        raise ValueError(
            f"this model needs {frames} cameras and fewer given views, got {tuple(camera.shape)} and {len(given)}"
        )
    if camera.size != tuple(given.shape[-2:]):
        raise ValueError(f"camera is for images of {camera.size}, the given views are {tuple(given.shape[-2:])}")
    if views.encoding == "images":
        return views.count, 1
    num_latent_frames(len(given))
    return 1, views.count
