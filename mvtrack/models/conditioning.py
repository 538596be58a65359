"""What the transformer is conditioned on beside noisy latents: from cameras, captions and pictures to its tokens.

`encode_conditioning` is the one way from a window to the network's inputs, for training, sampling, probing and still
views. This project's own camera input are Plücker maps of all views, which every block receives (MVTrack4Gen §5.1);
released checkpoints bring branches of their own: ReCamMaster's poses, ReDirector's maps and image tokens.
"""

import math
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from mvtrack.config.backbones import ViewRayConfig
from mvtrack.config.model import ModelConfig, RayConfig
from mvtrack.data.clip import TEMPORAL_STRIDE, num_latent_frames
from mvtrack.geometry.camera import Camera, path_extent, plucker_rays, require_perspective
from mvtrack.models.camera_encoding import projections
from mvtrack.models.prompts import Prompts
from mvtrack.models.view_rays import view_rays
from tracking_head import Cameras, HeadConfig

ADAPTER_STRIDE = 8  # pixels that the adapter folds into channels: the codec's stride, here of Wan's VAE
ADAPTER_CHANNELS = 24  # six Plücker coordinates of the four frames of a latent frame
_EVERY_PIXEL = RayConfig(token_px=16, stride=1)


@dataclass(frozen=True)
class Window:
    """The cameras of one window of a video, and what else conditions the model. A batch axis may lead every field.

    camera: video rate, references first, metres where known. scene_depth: distance of what the reference shows, in the
    camera's unit: the median z-depth of its first frame, or an estimate. prompts: None is the empty caption. start:
    camera-to-world of all views at the first frame of the whole video, see `relative_cameras`. frames: numbers of these
    frames in the video; None: from 0. domain: see `Conditioning`.
    """

    camera: Camera  # (V, T)
    scene_depth: float | Float[Tensor, "B"] | None = None
    prompts: Prompts | None = None
    start: Float[Tensor, "*B V 4 4"] | None = None
    frames: tuple[int, ...] | None = None
    domain: Int[Tensor, "B"] | None = None

    def batched(self) -> "Window":
        """The same with a batch axis, if it has none."""
        if len(self.camera.shape) == 3:
            return self
        prompts = None
        if self.prompts is not None:
            fields = (self.prompts.text, self.prompts.negative_text, self.prompts.image)
            prompts = Prompts(*(None if x is None else x[None] for x in fields))
        start = None if self.start is None else self.start[None]
        return replace(self, camera=self.camera[None], prompts=prompts, start=start)


class Conditioning(NamedTuple):
    """The transformer's inputs beside latents and noise level; None where a model has no such branch.

    rays: packed Plücker maps, see `ray_maps`. text: features of the caption; negative_text: of what classifier-free
    guidance steers away from (no input of the network). poses: 3x4 of each view and latent frame, row by row
    (ReCamMaster). maps: Plücker maps of every pixel (ReDirector). image: CLIP's tokens of the reference's first frame.
    projections: of world to image, for PRoPE (camera_encoding.py).
    reference: which latent frames of each sample are clean references; None: the first `num_reference` views.
    Networks over still views take rays of every pixel (B, V, 1, 6, H, W), see `view_rays`, and CAT3D a domain: which
    data a scene is of (`config.backbones.DOMAINS`; None: others), MVGenMaster pixels and positions, see `depth_priors`.
    """

    rays: Float[Tensor, "B V f r hr wr"] | None = None
    text: Float[Tensor, "B L t"] | None = None
    poses: Float[Tensor, "B V f 12"] | None = None
    maps: Float[Tensor, "B V f 24 H W"] | None = None
    image: Float[Tensor, "B M c"] | None = None
    reference: Bool[Tensor, "B V f"] | None = None
    num_reference: int = 1
    negative_text: Float[Tensor, "B L t"] | None = None
    domain: Int[Tensor, "B"] | None = None
    pixels: Float[Tensor, "B V 4 H W"] | None = None
    positions: Float[Tensor, "B V 193 h w"] | None = None
    projections: Float[Tensor, "B V f 4 4"] | None = None

    def to(self, device: torch.device) -> "Conditioning":
        return Conditioning(*(x.to(device) if isinstance(x, Tensor) else x for x in self))

    def without_cameras(self, dropped: Bool[Tensor, "B"]) -> "Conditioning":
        """Samples that are dropped have rays that are all zero and projections that change nothing."""
        rays = torch.where(dropped.view(-1, *[1] * (self.rays.ndim - 1)), 0.0, self.rays)
        projections = self.projections
        if projections is not None:
            same = torch.eye(4, dtype=projections.dtype, device=projections.device)
            projections = torch.where(dropped[:, None, None, None, None], same, projections)
        return self._replace(rays=rays, projections=projections)

    def joined(self, other: "Conditioning") -> "Conditioning":
        """Both as one batch."""
        pairs = zip(self, other, strict=True)
        return Conditioning(*(torch.cat([a, b]) if isinstance(a, Tensor) else a for a, b in pairs))


def encode_conditioning(
    config: ModelConfig, window: Window, reference: Bool[Tensor, "B V f"] | None = None
) -> Conditioning:
    """A window as the network takes it, always with a batch axis. reference: see `Conditioning`.

    Raises ValueError for a model whose `rays.scale: median_depth` gets no scene depth.
    """
    window = window.batched()
    if config.dit is None:
        if reference is None:
            raise ValueError("a network over still views needs to know which of them are references")
        return view_conditioning(window.camera[:, :, 0], reference[..., 0], config.backbone.rays, window.domain)
    prompts = window.prompts or Prompts()
    scaled, _ = model_cameras(window.camera, config.rays, window.scene_depth)
    poses, maps = released_cameras(window, config)
    return Conditioning(
        ray_maps(scaled, config.rays), prompts.text, poses, maps, prompts.image, reference,
        negative_text=prompts.negative_text,
        projections=projections(scaled) if config.dit.camera_encoding == "prope" else None,
    )  # fmt: skip


def view_conditioning(
    camera: Camera, reference: Bool[Tensor, "B V"], config: ViewRayConfig, domain: Int[Tensor, "B"] | None = None
) -> Conditioning:
    """What a network over still views is conditioned on. camera: (B, V). reference: the given views. domain: see
    `Conditioning`."""
    if tuple(camera.shape) != tuple(reference.shape):
        raise ValueError(f"cameras are {tuple(camera.shape)}, the mask of references {tuple(reference.shape)}")
    return Conditioning(view_rays(camera, config), reference=reference[..., None], domain=domain)


def model_cameras(
    camera: Camera, config: RayConfig, scene_depth: float | Float[Tensor, "*B"] | None = None
) -> tuple[Camera, Float[Tensor, "*B"]]:
    """Cameras (..., V, T) as the model expects them, and the length that became 1.

    Poses become relative to the reference's first frame and are divided by the scene's scale (method §1): its depth,
    or the larger path extent (of still views: the largest distance from the first).
    """
    relative = camera.relative_to(camera.c2w[..., :1, :1, :, :])
    lead = camera.shape[:-2]
    if config.scale == "none":
        scale = torch.ones(lead)
    elif config.scale == "path_extent":
        still = camera.shape[-1] == 1  # views of a still scene are a path themselves
        scale = path_extent(relative.c2w.squeeze(-3)) if still else path_extent(relative.c2w).amax(-1)
        scale = torch.where(scale > 1e-6, scale, torch.ones_like(scale))
    elif scene_depth is not None:
        scale = torch.as_tensor(scene_depth, dtype=torch.float32).expand(lead)
    else:
        raise ValueError(
            "rays.scale median_depth needs scene_depth, the distance of what the reference shows; for data without "
            "depth train with model.rays.scale=path_extent"
        )
    return relative.scaled((1 / scale)[..., None, None].expand(camera.shape)), scale


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


def released_cameras(
    window: Window, config: ModelConfig, num_reference: int = 1
) -> tuple[Tensor | None, Tensor | None]:
    """Poses and maps (see `Conditioning`) of a batched window, for the branches that a released checkpoint has.

    Raises ValueError where such a branch gets no target view.
    """
    dit, native = config.dit, config.native_camera
    if not (dit.pose_encoder or dit.control_adapter):
        return None, None
    if len(window.camera.shape) != 3 or not num_reference < window.camera.shape[1]:
        got = tuple(window.camera.shape)
        raise ValueError(f"cameras must be (B, V, T) with a target after {num_reference} references, got {got}")
    relative = relative_cameras(window.camera, native.origin, window.start)
    poses = pose_rows(relative, native.pose_view, num_reference) if dit.pose_encoder else None
    return poses, plucker_maps(relative, native.map_order) if dit.control_adapter else None


def relative_cameras(camera: Camera, origin: str, start: Float[Tensor, "*B V 4 4"] | None = None) -> Camera:
    """Cameras (..., V, T) relative to the reference's first frame ("reference") or to each view's own ("own").

    start: camera-to-world at the first frame of the whole video, where these frames are a window of it. What "own"
    leaves out is where each path starts in the video, not in the window: paths are moved to start where the reference
    does, and are then relative to the window's first reference frame, as in training. A later window so goes on where
    the one before was; relative to its own first frame it would jump back to the reference's viewpoint.

    By a full inverse in float64, as the authors do it: rotations that were printed with few digits are not quite
    orthonormal. float32 cameras come back as float32.
    """
    c2w = camera.c2w.double()
    first = c2w[..., :1, :1, :, :] if origin == "reference" else c2w[..., :, :1, :, :]
    if origin == "own" and start is not None:
        begin = start.double().unsqueeze(-3)
        first = begin @ torch.linalg.inv(begin[..., :1, :, :, :]) @ c2w[..., :1, :1, :, :]
    return replace(camera, c2w=(torch.linalg.inv(first) @ c2w).to(camera.c2w.dtype))


def pose_rows(relative: Camera, pose_view: str, num_reference: int = 1) -> Float[Tensor, "*B V f 12"]:
    """3x4 poses, row by row, of each latent frame's anchor (video frames 0, 4, 8, ...).

    pose_view "target": references get the first target's poses, as ReCamMaster's source does.
    """
    num_latent_frames(relative.shape[-1])
    rows = relative.c2w[..., ::TEMPORAL_STRIDE, :3, :].flatten(-2).float()
    if pose_view == "own":
        return rows
    targets = rows[..., num_reference:, :, :]
    return torch.cat([targets[..., :1, :, :].expand_as(rows[..., :num_reference, :, :]), targets], -3)


def plucker_maps(relative: Camera, map_order: str) -> Float[Tensor, "*B V f 24 H W"]:
    """Plücker maps of every pixel, four frames to a latent frame, the moment's or the direction's channels first."""
    maps = ray_maps(relative, _EVERY_PIXEL).float()
    if map_order == "direction_first":
        return maps
    direction, moment = rearrange(maps, "... (two c) h w -> two ... c h w", two=2)
    return torch.cat([moment, direction], -3)


def head_cameras(camera: Camera, head: HeadConfig) -> Cameras | None:
    """Cameras (..., V, f) at the latent frames as the tracking head takes them; None for a head that takes none.

    Neither the world's axes nor its unit matter: the head brings cameras into a frame of their own.
    """
    if head.camera == "none":
        return None
    require_perspective(camera, f"model.tracking.camera {head.camera}")
    return Cameras(camera.c2w, camera.K)


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


class ControlAdapter(nn.Module):
    """Full-resolution camera maps to one vector per token: pixels folded into channels, one strided convolution, one
    residual pair (Wan2.1-Fun-Control-Camera's layers and names).
    """

    def __init__(self, dim: int, patch: int, stride: int = ADAPTER_STRIDE) -> None:
        super().__init__()
        self.stride = stride
        self.conv = nn.Conv2d(ADAPTER_CHANNELS * stride**2, dim, patch, patch)
        self.residual_blocks = nn.Sequential(ResidualPair(dim))

    def forward(self, maps: Float[Tensor, "B V f c H W"]) -> Float[Tensor, "B N D"]:
        batch, views, frames = maps.shape[:3]
        folded = F.pixel_unshuffle(maps.to(self.conv.weight.dtype).flatten(0, 2), self.stride)
        x = self.residual_blocks(self.conv(folded))
        return rearrange(x, "(b v f) d h w -> b (v f h w) d", b=batch, v=views, f=frames)


class ResidualPair(nn.Module):
    def __init__(self, dim: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(dim, dim, 3, padding=1)
        self.conv2 = nn.Conv2d(dim, dim, 3, padding=1)

    def forward(self, x: Float[Tensor, "n d h w"]) -> Float[Tensor, "n d h w"]:
        return x + self.conv2(F.relu(self.conv1(x)))


class ImageEmbedding(nn.Module):
    """CLIP's image tokens to the transformer's width."""

    def __init__(self, image_dim: int, dim: int) -> None:
        super().__init__()
        self.proj = nn.Sequential(
            nn.LayerNorm(image_dim), nn.Linear(image_dim, image_dim), nn.GELU(), nn.Linear(image_dim, dim),
            nn.LayerNorm(dim),
        )  # fmt: skip

    def forward(self, image: Float[Tensor, "B M c"]) -> Float[Tensor, "B M D"]:
        return self.proj(image.to(self.proj[1].weight.dtype))
