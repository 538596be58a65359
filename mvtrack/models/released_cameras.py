"""Cameras as the released checkpoints take them: ReCamMaster's poses and ReDirector's maps.

`NativeCameraConfig` says how; it travels in the model's file. This project's own camera input is in ray_encoder.py.
"""

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor

from mvtrack.config.model import DiTConfig, NativeCameraConfig, RayConfig
from mvtrack.data.clip import TEMPORAL_STRIDE, num_latent_frames
from mvtrack.geometry.camera import Camera
from mvtrack.models.camera_conditioning import ray_maps
from mvtrack.models.checkpoint_adapters import NativeInputs

_EVERY_PIXEL = RayConfig(token_px=16, stride=1)


def native_inputs(
    camera: Camera,
    dit: DiTConfig,
    config: NativeCameraConfig,
    image: Float[Tensor, "B M c"] | None = None,
    num_reference: int = 1,
    start: Float[Tensor, "B V 4 4"] | None = None,
) -> NativeInputs | None:
    """Inputs of the branches that a transformer has, None if it has none.

    camera: (B, V, T), views in the model's order (references first), metres. image: CLIP's tokens, passed on. start:
    see `relative_cameras`.
    """
    if not (dit.pose_encoder or dit.control_adapter or dit.image_dim):
        return None
    if len(camera.shape) != 3 or not num_reference < camera.shape[1]:
        raise ValueError(
            f"cameras must be (B, V, T) with a target after {num_reference} references, got {tuple(camera.shape)}"
        )
    relative = relative_cameras(camera, config.origin, start)
    poses = pose_rows(relative, config.pose_view, num_reference) if dit.pose_encoder else None
    maps = plucker_maps(relative, config.map_order) if dit.control_adapter else None
    return NativeInputs(poses, maps, image)


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
    return Camera((torch.linalg.inv(first) @ c2w).to(camera.c2w.dtype), camera.K, camera.size, camera.scale_known)


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
