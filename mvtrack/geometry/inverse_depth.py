"""Correspondences by inverse depth: one linear form that holds from near planes to infinity.

A pixel with ray r = K^-1 (x, y, 1) and inverse z-depth rho lies at K'(R r + rho t) in another view, where R, t take the
first camera's coordinates to the other's; the third component is the ratio of both z-depths.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from mvtrack.geometry.camera import Camera, relative_pose

_SAME_SURFACE = 0.97  # share of the nearest inverse depth from which on surfaces blend instead of hiding each other
_TOUCHES = 0.1  # bilinear weight below which a splatted pixel does not count, so that near things do not grow
_BEHIND = 1e-4  # smallest ratio of depths at which a point counts as in front of the other camera


def correspondence(
    inverse_depth: Float[Tensor, "*n P h w"], view: Camera, other: Camera, stride: int = 1
) -> tuple[Float[Tensor, "*n P H W 2"], Float[Tensor, "*n P H W"]]:
    """Where the pixels of `view` (*n) lie in `other` (*n), and their inverse depth there (zero behind that camera).

    inverse_depth: 1 / z of P layers at the centres of `stride` x `stride` cells, in 1 / the cameras' unit, >= 0; its h
    and w may be 1: the layers are planes then. Coordinates are raster pixels of `other`, outside for what is behind.
    """
    height, width = view.size
    x = (torch.arange(width // stride, device=view.K.device) + 0.5) * stride
    y = (torch.arange(height // stride, device=view.K.device)[:, None] + 0.5) * stride
    motion = relative_pose(other.c2w.double(), view.c2w.double())
    shift = (other.K.double() @ motion[..., :3, 3:]).to(view.K)
    turn = (other.K.double() @ motion[..., :3, :3] @ torch.linalg.inv(view.K.double())).to(view.K)
    x, y, z = (
        turn[..., i, 0, None, None, None] * x
        + (turn[..., i, 1, None, None, None] * y + turn[..., i, 2, None, None, None])
        + inverse_depth * shift[..., i, 0, None, None, None]
        for i in range(3)
    )
    front = z > _BEHIND
    safe = torch.where(front, z, 1.0)
    xy = torch.stack([x / safe, y / safe], -1).masked_fill(~front[..., None], -1e6)
    return xy, torch.where(front, inverse_depth / safe, 0.0)


def inside(xy: Float[Tensor, "*n 2"], size: tuple[int, int], margin_px: float = 0.0):
    """Whether raster coordinates lie in a picture of `size` (H, W), at least `margin_px` from its border."""
    height, width = size
    x, y = xy[..., 0], xy[..., 1]
    return (x >= margin_px) & (y >= margin_px) & (x <= width - margin_px) & (y <= height - margin_px)


def sample(
    image: Float[Tensor, "n C H W"],
    xy: Float[Tensor, "n *g 2"],
    size: tuple[int, int] | None = None,
    mode: str = "bilinear",
) -> Float[Tensor, "n C *g"]:
    """Values at raster coordinates, borders repeated. size: (H, W) of the picture that the coordinates are for, where
    the image is a smaller or larger version of it. mode: of `grid_sample`."""
    height, width = size or image.shape[-2:]
    grid = 2 * xy / xy.new_tensor([width, height]) - 1
    flat = grid.flatten(1, -3) if grid.ndim > 4 else grid
    out = F.grid_sample(image, flat, mode=mode, padding_mode="border", align_corners=False)
    return out.unflatten(2, grid.shape[1:-2]) if grid.ndim > 4 else out


def splat_inverse_depth(
    inverse_depth: Float[Tensor, "H W"], view: Camera, other: Camera
) -> tuple[Float[Tensor, "h w"], Bool[Tensor, "h w"]]:
    """The surface that `view` shows, as inverse depth of `other` (cameras without leading shape), and where there is
    one; zero elsewhere.

    Each pixel is spread over the four nearest ones with bilinear weights; of what meets in one, the nearest counts, and
    what lies within 3 % of it.
    """
    height, width = other.size
    xy, inverse = correspondence(inverse_depth[None], view, other)
    corner = (xy[0] - 0.5).floor()
    part = (xy[0] - 0.5 - corner).flatten(0, 1)
    corner, value = corner.flatten(0, 1), inverse.flatten()
    cells, weights = [], []
    for dx in (0, 1):
        for dy in (0, 1):
            column, row = corner[:, 0] + dx, corner[:, 1] + dy
            weight = (part[:, 0] if dx else 1 - part[:, 0]) * (part[:, 1] if dy else 1 - part[:, 1])
            landed = (column >= 0) & (row >= 0) & (column < width) & (row < height) & (value > 0) & (weight > _TOUCHES)
            cells.append(torch.where(landed, row * width + column, height * width).long())
            weights.append(weight)
    cell, weight, value = torch.cat(cells), torch.cat(weights), value.repeat(4)
    nearest = value.new_zeros(height * width + 1).scatter_reduce(0, cell, value, "amax")
    weight = weight * (value >= nearest[cell] * _SAME_SURFACE)
    total = weight.new_zeros(height * width + 1).index_add(0, cell, weight)[:-1]
    mean = value.new_zeros(height * width + 1).index_add(0, cell, value * weight)[:-1] / total.clamp_min(1e-8)
    hit = (total > 0).view(height, width)
    return torch.where(hit, mean.view(height, width), 0.0), hit


def median_of_neighbours(inverse_depth: Float[Tensor, "h w"]) -> Float[Tensor, "h w"]:
    """Over 3x3 pixels: closes cracks and straightens contours."""
    windows = F.unfold(F.pad(inverse_depth[None, None], [1] * 4, mode="replicate"), 3)[0]
    return windows.median(0).values.view_as(inverse_depth)


def filled_from_behind(inverse_depth: Float[Tensor, "H W"], known: Bool[Tensor, "H W"]) -> Float[Tensor, "H W"]:
    """Holes take the farthest of what is known around them: what a view does not show lies behind what it shows.

    Coarser and coarser cells are asked until one knows something; what was filled is smooth. All holes: zero.
    """
    if known.all():
        return inverse_depth
    far = torch.where(known, inverse_depth, torch.inf)[None, None]
    levels = [far]
    while max(levels[-1].shape[-2:]) > 1:
        levels.append(-F.max_pool2d(-levels[-1], 2, ceil_mode=True))
    guess = levels[-1].nan_to_num(posinf=0.0)
    for level in reversed(levels[:-1]):
        guess = F.interpolate(guess, level.shape[-2:], mode="bilinear", align_corners=False)
        guess = torch.where(level.isfinite(), level, guess)
    return guess[0, 0]
