"""Frozen networks whose features of clean views a diffusion model's are drawn to, and stand-ins without weights."""

import importlib.util
import math
from collections.abc import Callable
from functools import lru_cache, partial

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from mvtrack.config.features import TeacherConfig
from mvtrack.correspondence.nearest_neighbours import points_from_depth, token_points
from mvtrack.geometry.camera import Camera
from mvtrack.metrics.vbench import IMAGENET

_CELLS = 4  # colours of so many cells to a token's side
_BANDS = 4  # sines and cosines at pi / 2^k of a point's coordinates
_VGGT_SIDE, _VGGT_PATCH = 518, 14

# of RGB in [-1, 1], a layer's grid, the views' cameras and depth; NaN where a token has no features
Teacher = Callable[[Tensor, tuple[int, int], Camera, Tensor | None], Tensor]


def teacher_of(config: TeacherConfig) -> Teacher:
    """Raises ValueError where its package or weights are missing."""
    if config.kind == "colours":
        return colour_features
    if config.kind == "points":
        return point_features
    load, features = {"dinov2": (_dinov2, dinov2_features), "vggt": (_vggt, vggt_features)}[config.kind]
    return partial(features, load(config.weights))


@torch.no_grad()
def dinov2_features(
    network: nn.Module, video: Float[Tensor, "B V T 3 H W"], grid: tuple[int, int], _camera: Camera, _depth: object
) -> Float[Tensor, "B V T h w C"]:
    """DINOv2's patch tokens of each picture alone, at the size of which one patch is a token (as REPA does)."""
    pictures = _fitted(network, video, tuple(side * network.config.patch_size for side in grid))
    mean, spread = (pictures.new_tensor(values)[:, None, None] for values in IMAGENET)
    tokens = network((pictures - mean) / spread).last_hidden_state[:, 1:]
    return tokens.unflatten(1, grid).unflatten(0, video.shape[:3]).float()


@torch.no_grad()
def vggt_features(
    network: nn.Module, video: Float[Tensor, "B V T 3 H W"], grid: tuple[int, int], _camera: Camera, _depth: object
) -> Float[Tensor, "B V T h w C"]:
    """The last tokens of VGGT's aggregator, of all views together, resized to the grid."""
    patches = tuple(round(_VGGT_SIDE * side / max(grid) / _VGGT_PATCH) for side in grid)
    pictures = _fitted(network, video, tuple(_VGGT_PATCH * side for side in patches)).unflatten(0, (len(video), -1))
    layers, first = network.aggregator(pictures)
    tokens = rearrange(layers[-1][:, :, first:], "b n (h w) c -> (b n) c h w", h=patches[0])
    tokens = F.interpolate(tokens.float(), grid, mode="bilinear", align_corners=False)
    return rearrange(tokens, "(b v t) c h w -> b v t h w c", b=len(video), t=video.shape[2])


def colour_features(
    video: Float[Tensor, "B V T 3 H W"], grid: tuple[int, int], _camera: Camera, _depth: object
) -> Float[Tensor, "B V T h w C"]:
    """The mean colours of 4 x 4 cells of each token: what a picture shows, without any learned meaning."""
    cells = F.adaptive_avg_pool2d(video.flatten(0, 2), tuple(_CELLS * side for side in grid))
    tokens = rearrange(cells, "n c (h p) (w q) -> n h w (c p q)", p=_CELLS, q=_CELLS)
    return tokens.unflatten(0, video.shape[:3])


def point_features(
    video: Float[Tensor, "B V T 3 H W"], grid: tuple[int, int], camera: Camera, depth: Float[Tensor, "B V T H W"] | None
) -> Float[Tensor, "B V T h w C"]:
    """Each token's exact point in the first view's frame, in units of that view's median depth, as sines and cosines:
    what VGGT has to estimate. NaN where no surface is seen. Raises ValueError without depth."""
    if depth is None:
        raise ValueError("teacher.kind points needs depth, which these clips do not have: set it to vggt")
    points = points_from_depth(depth, camera)
    place, known = token_points(points, points.isfinite().all(3), grid, "nearest")
    first = camera.c2w[:, :1, :1]
    place = (place - first[..., None, :3, 3]) @ first[..., :3, :3]
    seen = torch.where(depth[:, 0, 0] > 0, depth[:, 0, 0], torch.nan).flatten(1).nanmedian(1).values
    place = place / seen[:, None, None, None, None]
    angles = torch.cat([place * (math.pi / 2**k) for k in range(_BANDS)], -1)
    features = torch.where(known[..., None], torch.cat([angles.sin(), angles.cos()], -1), torch.nan)
    return features.unflatten(3, grid).to(video.device)


def _fitted(network: nn.Module, video: Float[Tensor, "B V T 3 H W"], size: tuple[int, int]) -> Float[Tensor, "n 3 h w"]:
    """Pictures in [0, 1] of a size; the network moves to where they are."""
    network.to(video.device)
    pictures = F.interpolate(video.flatten(0, 2), size, mode="bicubic", antialias=True)
    return (pictures.clamp(-1, 1) + 1) / 2


@lru_cache(maxsize=1)
def _dinov2(weights: str) -> nn.Module:
    if importlib.util.find_spec("transformers") is None:
        raise ValueError("teacher.kind dinov2 needs the package transformers: pip install -e '.[wan]'")
    from transformers import Dinov2Model

    try:
        return Dinov2Model.from_pretrained(weights).eval().requires_grad_(False)
    except (OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise ValueError(f"loss.features.teacher.weights {weights} cannot be loaded: {reason}") from error


@lru_cache(maxsize=1)
def _vggt(weights: str) -> nn.Module:
    if importlib.util.find_spec("vggt") is None:
        raise ValueError(
            "teacher.kind vggt needs the package vggt in this environment (facebookresearch/vggt; its weights are not "
            "for commercial use); where depth is known, teacher.kind points needs nothing"
        )
    from vggt.models.vggt import VGGT

    return VGGT.from_pretrained(weights).eval().requires_grad_(False)
