"""Cameras of still views as CAT3D takes them: Plücker maps of every pixel, relative to one of the views."""

from dataclasses import replace

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor

from mvtrack.config.backbones import ViewRayConfig
from mvtrack.geometry.camera import Camera, invert_pose, plucker_rays, require_perspective


def view_rays(camera: Camera, config: ViewRayConfig) -> Float[Tensor, "*B V 1 6 H W"]:
    """[direction, origin x direction] of cameras (..., V), see `ViewRayConfig`.

    Raises ValueError for orthographic ones.
    """
    require_perspective(camera, "a network over still views")
    with torch.autocast(camera.c2w.device.type, enabled=False):
        camera = normalised(camera, config)
        if config.pixel == "peer":
            camera = camera.cropped(-1, 0, camera.size)
        return rearrange(plucker_rays(camera), "... h w c -> ... 1 c h w")


def normalised(camera: Camera, config: ViewRayConfig) -> Camera:
    """Cameras (..., V) in the frame and scale of a config."""
    c2w = camera.c2w.float()
    index = 0 if config.origin == "first" else -1
    to_origin = invert_pose(c2w[..., index, :, :])[..., None, :, :]
    if config.frame == "relative":
        c2w = to_origin @ c2w
    elif config.frame == "peer":
        c2w = c2w @ to_origin
    if config.scale == "largest_coordinate":
        centre = c2w[..., :3, 3]
        c2w = c2w.clone()
        c2w[..., :3, 3] = centre / (centre.abs().amax((-2, -1), keepdim=True) + 1e-8)
    return replace(camera, c2w=c2w, K=camera.K.float())
