"""Exact warps through known depth: the strongest baseline, and the mask of what both views see."""

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from mvtrack.geometry.camera import Camera, pixel_grid, project, unproject

DEPTH_TOLERANCE = 0.03  # relative z difference below which two views see the same surface


def reproject(
    target_depth: Float[Tensor, "T H W"], target: Camera, reference: Camera
) -> tuple[Float[Tensor, "T H W 2"], Float[Tensor, "T H W"]]:
    """Where each target pixel's surface point lies in the reference at the same time: raster pixels, z-depth."""
    xy = pixel_grid(target.size).flatten(0, 1).expand(len(target_depth), -1, -1)
    seen_xy, seen_z = project(unproject(xy, target_depth.flatten(1), target), reference)
    return seen_xy.unflatten(1, target.size), seen_z.unflatten(1, target.size)


def covisible(
    target_depth: Float[Tensor, "T H W"], reference_depth: Float[Tensor, "T H W"], target: Camera, reference: Camera
) -> Bool[Tensor, "T H W"]:
    """Target pixels whose surface point the reference sees too."""
    xy, z = reproject(target_depth, target, reference)
    surface = sample_nearest(reference_depth[:, None], xy)[:, 0]
    height, width = reference.size
    inside = (xy >= 0).all(-1) & (xy[..., 0] < width) & (xy[..., 1] < height) & (z > 0)
    return inside & ((z - surface).abs() < DEPTH_TOLERANCE * surface)


def depth_warp(
    reference_video: Float[Tensor, "T 3 H W"], target_depth: Float[Tensor, "T H W"],
    reference_depth: Float[Tensor, "T H W"], target: Camera, reference: Camera,
) -> Float[Tensor, "T 3 H W"]:  # fmt: skip
    """The reference's colours carried to the target by exact depth; what it does not see gets its mean colour."""
    xy, _ = reproject(target_depth, target, reference)
    warped = sample_bilinear(reference_video, xy)
    seen = covisible(target_depth, reference_depth, target, reference)[:, None]
    return torch.where(seen, warped, reference_video.mean((0, 2, 3), keepdim=True))


def sample_bilinear(image: Float[Tensor, "T C H W"], xy: Float[Tensor, "T h w 2"]) -> Float[Tensor, "T C h w"]:
    """Values at raster coordinates, borders repeated."""
    return F.grid_sample(image, _uv(image, xy), mode="bilinear", padding_mode="border", align_corners=False)


def sample_nearest(image: Float[Tensor, "T C H W"], xy: Float[Tensor, "T h w 2"]) -> Float[Tensor, "T C h w"]:
    """The pixel that raster coordinates fall into, borders repeated."""
    return F.grid_sample(image, _uv(image, xy), mode="nearest", padding_mode="border", align_corners=False)


def _uv(image: Tensor, xy: Tensor) -> Tensor:
    return 2 * xy / xy.new_tensor([image.shape[-1], image.shape[-2]]) - 1
