"""Correspondences by inverse depth: one linear form that holds from near planes to infinity.

A pixel with ray r = K^-1 (x, y, 1) and inverse z-depth rho lies at K'(R r + rho t) in another view, where R, t take the
first camera's coordinates to the other's; the third component is the ratio of both z-depths.
"""

import cv2
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from mvtrack.geometry.camera import Camera, relative_pose, require_perspective

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
    turn, shift = plane_homography(view, other)
    x, y, z = (
        turn[..., i, 0, None, None, None] * x
        + (turn[..., i, 1, None, None, None] * y + turn[..., i, 2, None, None, None])
        + inverse_depth * shift[..., i, None, None, None]
        for i in range(3)
    )
    front = z > _BEHIND
    if front.all():
        return torch.stack([x / z, y / z], -1), inverse_depth / z
    safe = torch.where(front, z, 1.0)
    xy = torch.stack([x / safe, y / safe], -1).masked_fill(~front[..., None], -1e6)
    return xy, torch.where(front, inverse_depth / safe, 0.0)


def plane_homography(view: Camera, other: Camera) -> tuple[Float[Tensor, "*n 3 3"], Float[Tensor, "*n 3"]]:
    """H and e of both cameras (*n): the pixel (x, y, 1) of `view` at inverse depth rho lies at H (x, y, 1) + rho e in
    `other`, in homogeneous raster coordinates whose last one is the ratio of both z-depths."""
    for camera in (view, other):
        require_perspective(camera, "a homography of planes")
    motion = relative_pose(other.c2w.double(), view.c2w.double())
    shift = (other.K.double() @ motion[..., :3, 3:])[..., 0]
    turn = other.K.double() @ motion[..., :3, :3] @ torch.linalg.inv(view.K.double())
    return turn.to(view.K), shift.to(view.K)


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
    grid = xy * xy.new_tensor([2 / width, 2 / height]) - 1
    flat = grid.flatten(1, -3) if grid.ndim > 4 else grid
    out = F.grid_sample(image, flat, mode=mode, padding_mode="border", align_corners=False)
    return out.unflatten(2, grid.shape[1:-2]) if grid.ndim > 4 else out


def splat_inverse_depth(
    inverse_depth: Float[Tensor, "H W"], view: Camera, other: Camera, wanted: Bool[Tensor, "h w"] | None = None
) -> tuple[Float[Tensor, "h w"], Bool[Tensor, "h w"]]:
    """The surface that `view` shows, as inverse depth of `other` (cameras without leading shape), and where there is
    one; zero elsewhere. wanted: the only pixels of `other` that are looked at.

    Each pixel is spread over the four nearest ones with bilinear weights; of what meets in one, the nearest counts, and
    what lies within 3 % of it.
    """
    height, width = other.size
    xy, inverse = correspondence(inverse_depth[None], view, other)
    x, y, value = xy[0, ..., 0].flatten() - 0.5, xy[0, ..., 1].flatten() - 0.5, inverse.flatten()
    landing = (x > -1) & (y > -1) & (x < width) & (y < height) & (value > 0)
    if wanted is not None:
        near = F.max_pool2d(F.pad(wanted.float()[None, None], [1] * 4), 3, 1)[0, 0] > 0
        landing &= near[y.round().clamp(0, height - 1).long(), x.round().clamp(0, width - 1).long()]
    x, y, value = x[landing], y[landing], value[landing]
    left, top = x.floor(), y.floor()
    x, y, left, top = x - left, y - top, left.long(), top.long()
    cells, weights, nothing = [], [], height * width
    for dx in (0, 1):
        for dy in (0, 1):
            column, row, weight = left + dx, top + dy, (x if dx else 1 - x) * (y if dy else 1 - y)
            hits = (column >= 0) & (row >= 0) & (column < width) & (row < height) & (weight > _TOUCHES)
            cells.append(torch.where(hits, row * width + column, nothing))
            weights.append(weight)
    cell, weight, value = torch.cat(cells), torch.cat(weights), value.repeat(4)
    nearest = value.new_zeros(nothing + 1).scatter_reduce(0, cell, value, "amax")
    weight = weight * (value >= nearest[cell] * _SAME_SURFACE)
    total = weight.new_zeros(nothing + 1).index_add(0, cell, weight)[:-1]
    mean = value.new_zeros(nothing + 1).index_add(0, cell, value * weight)[:-1] / total.clamp_min(1e-8)
    hit = (total > 0).view(height, width)
    if wanted is not None:
        hit &= wanted
    return torch.where(hit, mean.view(height, width), 0.0), hit


def median_of_neighbours(inverse_depth: Float[Tensor, "h w"]) -> Float[Tensor, "h w"]:
    """Over 3x3 pixels, borders repeated: closes cracks and straightens contours."""
    return torch.from_numpy(cv2.medianBlur(inverse_depth.contiguous().numpy(), 3))


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
