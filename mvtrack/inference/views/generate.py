"""Model + some views of a still scene + cameras -> the other views (CAMEO, method §7)."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal
from zlib import crc32

import torch
from jaxtyping import Float
from torch import Tensor

from mvtrack.config.backbones import DOMAINS
from mvtrack.config.model import ModelConfig
from mvtrack.data.clip import num_latent_frames
from mvtrack.geometry.camera import Camera
from mvtrack.inference.guidance import check_guidance
from mvtrack.inference.sampler import SamplerOptions, denoise
from mvtrack.models.conditioning import Conditioning, Window, encode_conditioning
from mvtrack.models.decoder.decode_aligned import AlignedDecoding
from mvtrack.models.depth_priors import depth_priors, within_box
from mvtrack.models.diffusion.flow import keep_references
from mvtrack.models.prompts import Captions, make_prompts
from mvtrack.models.reshoot_model import ReshootModel
from mvtrack.models.view_rays import view_rays


@dataclass(frozen=True)
class StillScene:
    """What is known of a scene beside its pictures. depth: median z-depth of the first view, in the camera's unit.
    domain: which data it is like, for CAT3D. names: of the views that are made, by which their noise is drawn: a view
    keeps it wherever it stands. None: it is drawn for all at once. maps: z-depth of the references, positive and in the
    camera's unit, which MVGenMaster's network needs.
    """

    depth: float | None = None
    domain: Literal["re10k", "co3d", "others"] | None = None
    names: tuple[str, ...] | None = None
    maps: Float[Tensor, "R H W"] | None = None


@torch.no_grad()
def generate_views(
    model: ReshootModel, references: Float[Tensor, "R 3 H W"], camera: Camera, sample: SamplerOptions | None = None,
    scene_depth: float | StillScene | None = None, on_step: Callable[[], None] | None = None,
    aligned: AlignedDecoding | None = None,
) -> Float[Tensor, "N 3 H W"]:  # fmt: skip
    """Generate the missing views of a still scene, in the order of their cameras, without a caption.

    references: RGB in [-1, 1], the first views; of a model for camera paths the first 4n + 1 frames of the path.
    camera: (R + N,), the references' first. scene_depth: median z-depth of the first view, in the camera's unit, or
    more of what is known of the scene. on_step: called after every sampling step. aligned: decode a second time, with
    all views in sight of each other; it needs scene_depth.

    Raises ValueError for a model that re-shoots videos, for other numbers of views than it makes, and for `aligned`
    with a model for camera paths.
    """
    sample = sample or SamplerOptions.of(model.config)
    scene = scene_depth if isinstance(scene_depth, StillScene) else StillScene(scene_depth)
    layout = _layout(model, references, camera)
    if aligned is not None and layout[1] != 1:
        raise ValueError("aligned decoding is for models of single views (model.views.encoding: images), not of paths")
    check_sampling(model.config, sample, scene.domain)
    clean = model.encode(references.unflatten(0, (-1, 1))[None] if layout[1] == 1 else references[None, None])
    shape, known = (1, *layout, *clean.shape[3:]), clean.shape[1] * clean.shape[2]
    reference = (torch.arange(layout[0] * layout[1]) < known).view(1, *layout).to(model.device)
    padded = torch.zeros(shape, device=model.device)
    padded[reference] = clean.flatten(0, 2)
    domain = None if scene.domain is None else torch.tensor([DOMAINS.index(scene.domain)])
    prompts = make_prompts(model.config, references[0], Captions(guidance=sample.guidance), model.device)
    window = Window(camera[:, None] if layout[1] == 1 else camera[None], scene.depth, prompts, domain=domain)
    conditioning = encode_conditioning(model.config, window, reference)
    if model.config.cat3d is not None and model.config.cat3d.depth_priors:
        conditioning = _with_priors(model.config, references, window, scene, conditioning)

    def with_references(x: Tensor) -> Tensor:
        return keep_references(padded, x, reference)

    noise = _noise(shape, known, sample.seed, scene.names)
    latents = denoise(model, noise, with_references, conditioning, sample, on_step)
    latents = with_references(latents)
    made = model.decode(latents).flatten(0, 2)[len(references) :].clamp(-1, 1)
    if aligned is None:
        return made
    pictures = torch.cat([references, made])[:, None]
    return aligned.decode(model, latents[0].cpu(), pictures, window, len(references))[:, 0]


def _with_priors(
    config: ModelConfig, references: Tensor, window: Window, scene: StillScene, conditioning: Conditioning
) -> Conditioning:
    """Rays in the unit of training, and what the references' depth carries to every view.

    Raises ValueError without depth, or for depth that is not positive.
    """
    if scene.maps is None or not bool((scene.maps > 0).all()):
        state = "positive everywhere" if scene.maps is not None else "known"
        raise ValueError(f"MVGenMaster's network needs depth of the given views that is {state}: give --depth FILE")
    camera, depth = within_box(window.camera[:, 0], scene.maps)
    pixels, positions = depth_priors(references, depth, camera)
    rays = view_rays(camera[None], config.cat3d.rays)
    return conditioning._replace(rays=rays, pixels=pixels[None], positions=positions[None])


def check_sampling(config: ModelConfig, sample: SamplerOptions, domain: str | None = None) -> None:
    """Raise ValueError for guidance, steps or a domain that a model over still views cannot take."""
    check_guidance(config, sample.guidance, sample.camera_guidance)
    if config.diffusion is not None:
        config.diffusion.check_steps(sample.steps)
    if domain is not None and config.cat3d is not None and config.cat3d.depth_priors:
        raise ValueError(f"domain {domain} is a label of CAMEO's, MVGenMaster has its own: leave it out")
    if domain is not None and config.cat3d is None:
        raise ValueError(f"domain {domain} is for CAT3D: this model has no use for it, leave it out")


def _noise(shape: tuple[int, ...], known: int, seed: int, names: tuple[str, ...] | None) -> Tensor:
    """Of all views; that of the references is never seen."""
    if names is None:
        return torch.randn(shape, generator=torch.Generator().manual_seed(seed))
    if shape[2] != 1 or len(names) != shape[1] - known:
        raise ValueError(f"{len(names)} names are given for {shape[1] - known} views of {shape[2]} latent frames")
    noise = torch.zeros(shape)
    for view, name in enumerate(names, known):
        generator = torch.Generator().manual_seed(crc32(f"{seed} {name}".encode()))
        noise[:, view] = torch.randn(noise[:, view].shape, generator=generator)
    return noise


def _layout(model: ReshootModel, references: Tensor, camera: Camera) -> tuple[int, int]:
    """(V, f) of the latents. Raises ValueError when views and cameras are not those of the model."""
    views = model.config.views
    if views is None:
        raise ValueError("this model re-shoots videos, it makes no views of still scenes: use generate")
    frames = views.count if views.encoding == "images" else views.num_frames
    if camera.shape != (frames,) or not len(references) < frames:
        raise ValueError(
            f"this model needs {frames} cameras and fewer references, got {tuple(camera.shape)} and {len(references)}"
        )
    if camera.size != tuple(references.shape[-2:]):
        raise ValueError(f"camera is for images of {camera.size}, the references are {tuple(references.shape[-2:])}")
    if views.encoding == "images":
        return views.count, 1
    num_latent_frames(len(references))
    return 1, views.count
