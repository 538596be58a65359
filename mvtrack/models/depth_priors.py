"""What MVGenMaster sees beside rays: the given views' colours and coordinates, carried to every view by their depth.

Facts of the authors' code that weights depend on: pixels lie at whole numbers, and a point's three coordinates are
normalised by their own smallest and largest, not over the picture.
"""

import math
from dataclasses import replace

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Bool, Float
from torch import Tensor

from mvtrack.geometry.camera import Camera, project, unproject

STRIDE, FREQUENCIES = 8, 32
POSITION_CHANNELS = 6 * FREQUENCIES + 1
LARGEST_BOX = 5.0
_FAR = 4.0  # medians of depth, beyond which it is contracted in coordinates
_PERIOD = 10_000.0


def depth_priors(
    colours: Float[Tensor, "R 3 H W"], depth: Float[Tensor, "R H W"], camera: Camera
) -> tuple[Float[Tensor, "V 4 H W"], Float[Tensor, "V 193 h w"]]:
    """Colours and a mask of where there are any; Fourier features of coordinates and a mask, at an eighth of the size.

    camera: (V,), raster pixels, the given views' first. depth: z-depth, positive. Given views keep what is their own;
    others get the nearest of what lands on a pixel, rounded.
    """
    given = len(colours)
    points = _points(depth, camera[:given])
    pixels = _carried(points, colours.movedim(1, -1), camera, given)
    size = tuple(side // STRIDE for side in camera.size)
    far = _FAR * depth.flatten(1).median(1).values[:, None, None]
    contracted = torch.where(depth > far, 2 * far - far**2 / depth, depth)
    coarse = F.interpolate(contracted[:, None], size, mode="nearest")[:, 0]
    small = _eighth(camera)
    places = _points(coarse, small[:given])
    coordinates = _carried(places, places.view(given, *size, 3), small, given)
    return pixels, torch.cat([_features(coordinates), coordinates[:, 3:]], 1)


def within_box(camera: Camera, depth: Float[Tensor, "R H W"]) -> tuple[Camera, Float[Tensor, "R H W"]]:
    """Cameras (V,) and depth in a unit in which the longest side of the centres' box is at most 5, as in training."""
    centre = camera.c2w[:, :3, 3]
    longest = float((centre.amax(0) - centre.amin(0)).max())
    factor = min(1.0, LARGEST_BOX / longest) if longest > 0 else 1.0
    return camera.scaled(torch.full(camera.shape, factor)), factor * depth


def _eighth(camera: Camera) -> Camera:
    """For the picture at an eighth, with pixels at whole numbers as the authors have them: K / 8 of their own K."""
    index = camera.cropped(0.5, 0.5, camera.size)
    size = tuple(side // STRIDE for side in camera.size)
    K = index.K.clone()
    K[..., :2, :] /= STRIDE
    return replace(index, K=K, size=size).cropped(-0.5, -0.5, size)


def _points(depth: Float[Tensor, "R H W"], camera: Camera) -> Float[Tensor, "R N 3"]:
    height, width = camera.size
    y, x = torch.meshgrid(torch.arange(height) + 0.5, torch.arange(width) + 0.5, indexing="ij")
    return unproject(torch.stack([x, y], -1).flatten(0, 1).to(depth), depth.flatten(1), camera)


def _carried(
    points: Float[Tensor, "R N 3"], values: Float[Tensor, "R H W C"], camera: Camera, given: int
) -> Float[Tensor, "V E H W"]:
    """Values of the given views' points in every view, then whether a point landed there."""
    height, width = camera.size
    flat = torch.cat([values, torch.ones_like(values[..., :1])], -1).flatten(1, 2)  # (R, N, C + 1)
    views = [flat[i] for i in range(given)]
    for view in range(given, camera.shape[0]):
        xy, z = project(points.flatten(0, 1), camera[view])
        cell = (xy - 0.5).round().long()
        lands = (z > 0) & (cell >= 0).all(-1) & (cell[:, 0] < width) & (cell[:, 1] < height)
        order = torch.where(lands, z, torch.inf).argsort(descending=True, stable=True)[int((~lands).sum()) :]
        out = torch.zeros(height * width, flat.shape[-1], dtype=flat.dtype)
        index = cell[order, 1] * width + cell[order, 0]
        nearest = torch.full((height * width,), -1).scatter_reduce(0, index, torch.arange(len(order)), "amax")
        known = nearest >= 0
        out[known] = flat.flatten(0, 1)[order[nearest[known]]]
        views.append(out)
    return rearrange(torch.stack(views), "v (h w) e -> v e h w", h=height)


def _features(coordinates: Float[Tensor, "V 4 h w"]) -> Float[Tensor, "V 192 h w"]:
    """Zero in a view that sees nothing."""
    place, seen = coordinates[:, :3], coordinates[:, 3:].flatten(1).any(1)
    low, high = place.amin(1, keepdim=True), place.amax(1, keepdim=True)
    place = (place - low) / (high - low + 1e-6)
    frequency = torch.exp(-math.log(_PERIOD) * 2 * torch.arange(FREQUENCIES) / (2 * FREQUENCIES))
    angle = place[:, None] * frequency[:, None, None, None]
    waves = torch.stack([angle.sin(), angle.cos()], 3)
    return rearrange(waves, "v k a s h w -> v (k a s) h w") * _as_mask(seen)


def _as_mask(seen: Bool[Tensor, "V"]) -> Float[Tensor, "V 1 1 1"]:
    return seen[:, None, None, None].float()
