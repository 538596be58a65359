"""Forward warping: every source pixel is carried to another camera by its depth; the nearest surface wins."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from mvtrack.geometry.camera import Camera, pixel_grid, project, unproject

_SAME_SURFACE = 0.02  # relative depth within which points blend instead of hiding each other


def splat(
    image: Float[Tensor, "C H W"], depth: Float[Tensor, "H W"], source: Camera, target: Camera
) -> tuple[Float[Tensor, "C h w"], Bool[Tensor, "h w"]]:
    """Carry an image (any channels) from `source` to `target` (cameras without leading shape).

    depth: z-depth, positive; pixels where it is not finite or not positive are left out. Returns the warped image, zero
    where nothing landed, and where something did.
    """
    points, usable = _surface(depth, source)
    warped, nearest = splat_points(image.flatten(1)[:, usable], points, target)
    return warped, nearest.isfinite()


def splat_points(
    values: Float[Tensor, "C N"], points_world: Float[Tensor, "N 3"], target: Camera
) -> tuple[Float[Tensor, "C h w"], Float[Tensor, "h w"]]:
    """Draw points with values into a camera (without leading shape).

    Each point is spread over the four nearest pixels with bilinear weights; a z-buffer keeps what lies within 2 % of
    the nearest. Returns the values, zero where nothing landed, and the z-depth of the nearest point, infinite there.
    """
    height, width = target.size
    seen_xy, z = project(points_world, target)
    corner = (seen_xy - 0.5).floor()
    part = seen_xy - 0.5 - corner
    corners, weights = [], []
    for dx in (0, 1):
        for dy in (0, 1):
            corners.append(corner + corner.new_tensor([dx, dy]))
            weights.append((part[:, 0] if dx else 1 - part[:, 0]) * (part[:, 1] if dy else 1 - part[:, 1]))
    cell, weight, z = torch.cat(corners), torch.cat(weights), z.repeat(4)
    inside = (cell >= 0).all(-1) & (cell[:, 0] < width) & (cell[:, 1] < height) & (z > 0) & (weight > 1e-4)
    index = (cell[inside, 1] * width + cell[inside, 0]).long()
    z, weight, values = z[inside], weight[inside], values.repeat(1, 4)[:, inside]
    nearest = z.new_full((height * width,), torch.inf).scatter_reduce(0, index, z, "amin")
    weight = weight * (z <= nearest[index] * (1 + _SAME_SURFACE))
    total = weight.new_zeros(height * width).index_add(0, index, weight)
    out = values.new_zeros(len(values), height * width).index_add(1, index, values * weight)
    hit = total > 1e-6
    out = torch.where(hit, out / total.clamp_min(1e-6), 0.0)
    return out.unflatten(1, (height, width)), torch.where(hit, nearest, torch.inf).view(height, width)


def splat_depth(depth: Float[Tensor, "H W"], source: Camera, target: Camera) -> Float[Tensor, "h w"]:
    """The surface that a depth map shows, as z-depth of another camera; NaN where nothing of it is seen there."""
    points, _ = _surface(depth, source)
    mean, nearest = splat_points(project(points, target)[1][None], points, target)
    return torch.where(nearest.isfinite(), mean[0], torch.nan)


def _surface(depth: Float[Tensor, "H W"], source: Camera) -> tuple[Float[Tensor, "N 3"], Bool[Tensor, "HW"]]:
    """World points of the pixels whose depth is known, and which those are."""
    usable = (torch.isfinite(depth) & (depth > 0)).flatten()
    xy = pixel_grid(source.size, device=depth.device).to(depth).flatten(0, 1)[usable]
    return unproject(xy, depth.flatten()[usable], source), usable
