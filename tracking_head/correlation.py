"""Local 4D correlation without upsampled maps: exact, chunked over points, recomputed in the backward pass.

A neighbourhood of an interpolated level hangs on a few stored tokens by two small matrices (pyramid.py), and bilinear
interpolation commutes with dot products. So each point's few tokens are multiplied with its query neighbourhood, which
is sampled once a clip, and the products are interpolated. The slow reference is correlation_reference.py.
"""

import math
from typing import NamedTuple

import torch
from einops import rearrange
from torch import Tensor
from torch.autograd.function import once_differentiable

from tracking_head.pyramid import CorrelationConfig, Level, level_maps, patch_weights, pyramid_levels
from tracking_head.shapes import Bool, Float, Int

_CPU_CHUNK_BYTES = 6 * 2**20  # the gathered keys of a chunk stay in the cache
_GPU_CHUNK_BYTES = 512 * 2**20


class CorrelationFeatures(NamedTuple):
    """What correlation needs of a clip, once for all iterations. G = B V T images, M = B V N points.

    keys: each level's stored key map. supports: query features at the P offsets around each point, in its own frame,
    already divided by the scale of the dot product. All heads of a pair that are only summed are one head here.
    shown: the frames at which estimates stand, by number among the T; None: all T in order. active: points that
    correlate; all volumes of the others are those of a support of zeros; None: all points.
    """

    keys: tuple[Float[Tensor, "G hs ws heads d"], ...]
    supports: tuple[Float[Tensor, "M P heads d"], ...]
    levels: tuple[Level, ...]
    frames: int
    points: int
    shown: Int[Tensor, "S"] | None = None
    active: Bool[Tensor, "M"] | None = None


def prepare(
    q: Float[Tensor, "B V T h w heads d"],
    k: Float[Tensor, "B V T h w heads d"],
    query_txy: Float[Tensor, "B V N 3"],
    token_px: int,
    config: CorrelationConfig,
) -> CorrelationFeatures:
    """Key maps of all levels, and the query side sampled at (frame, x, y); x, y in raster pixels of the images.

    q, k: float32 or bfloat16, one token per token_px x token_px pixels. Raises ValueError for q and k of different
    shapes or queries of another number of clips or views.
    """
    if q.ndim != 7 or q.shape != k.shape:
        raise ValueError(f"q and k must both be (B, V, T, h, w, heads, d), got {tuple(q.shape)} and {tuple(k.shape)}")
    expected = (*q.shape[:2], query_txy.shape[-2], 3)
    if query_txy.shape != expected:
        raise ValueError(f"query_txy must be {expected} (B, V, N, 3), got {tuple(query_txy.shape)}")
    frames, grid, (heads, width) = q.shape[2], (q.shape[3], q.shape[4]), q.shape[5:]
    scale = math.sqrt(width if config.heads == "mean" else heads * width) if config.scaled else 1.0
    joined = config.heads == "sum" or config.softmax == "none"  # nothing happens to a single head's product
    if joined and config.heads == "mean":
        scale *= heads
    dtype = q.dtype if config.dtype is None else getattr(torch, config.dtype)
    pattern = "b v t h w n d -> (b v t) h w (n d)"
    levels = pyramid_levels(grid, token_px, config)
    t, xy = _frame_of(query_txy, frames), rearrange(query_txy[..., 1:], "b v n c -> (b v n) c").to(_at_least_float32(q))
    split = {"n": 1 if joined else heads}
    with torch.autocast(q.device.type, enabled=False):
        q_maps = level_maps(rearrange(q, pattern), levels, config)
        k_maps = q_maps if k is q and dtype == q.dtype else level_maps(rearrange(k, pattern).to(dtype), levels, config)
        # Levels that share a map must share a tensor: then autograd adds their gradients up in one buffer.
        views = {id(x): rearrange(x, "g h w (n d) -> g h w n d", **split) for x in k_maps}
        keys = [views[id(x)] for x in k_maps]
        supports = [
            rearrange(
                (sample_support(x, xy, t, level, config.radius) / scale).to(dtype), "m p (n d) -> m p n d", **split
            )
            for x, level in zip(q_maps, levels, strict=True)
        ]
    return CorrelationFeatures(tuple(keys), tuple(supports), levels, frames, query_txy.shape[2])


def _frame_of(query_txy: Float[Tensor, "B V N 3"], frames: int) -> Int[Tensor, "M"]:
    """Index of each query's image among all B V T."""
    batch, views, points = query_txy.shape[:3]
    clip = torch.arange(batch * views, device=query_txy.device).repeat_interleave(points)
    return clip * frames + rearrange(query_txy[..., 0], "b v n -> (b v n)").long()


def sample_support(
    q_map: Float[Tensor, "G hs ws C"], xy_px: Float[Tensor, "M 2"], image: Int[Tensor, "M"], level: Level, radius: int
) -> Float[Tensor, "M P C"]:
    """Features of a level at the P = (2 radius + 1)^2 offsets around points, row by row; float32 or better."""
    around = _surroundings(xy_px[:, None], image[:, None], level, radius)
    rows = _rows(around, level, 1).flatten()
    patch = _matrix(q_map).index_select(0, rows).to(around.wy.dtype)
    wy, wx = around.wy[:, 0], around.wx[:, 0]
    patch = rearrange(patch, "(m y x) c -> m y (x c)", y=wy.shape[-1], x=wx.shape[-1])
    lines = rearrange(wy @ patch, "m p (x c) -> m p x c", x=wx.shape[-1])
    return rearrange(wx[:, None] @ lines, "m p q c -> m (p q) c")


def correlate(
    prepared: CorrelationFeatures,
    xy_px: Float[Tensor, "m T 2"],
    level: int,
    config: CorrelationConfig,
    first_point: int = 0,
) -> Float[Tensor, "m T P P"]:
    """One level's volume around current estimates: [key offset, query offset], both row by row from the upper left.

    xy_px: raster pixels in the frames shown, of the points from number `first_point` on among all M = B V N. The result
    is float32 (float64 for float64 features); gradients reach q and k, and the estimates if `config.estimate_gradient`.
    """
    point = torch.arange(first_point, first_point + len(xy_px), device=xy_px.device)
    shown = torch.arange(prepared.frames, device=xy_px.device) if prepared.shown is None else prepared.shown
    image = (point // prepared.points * prepared.frames)[:, None] + shown
    with torch.autocast(xy_px.device.type, enabled=False):
        xy = (xy_px if config.estimate_gradient else xy_px.detach()).to(_at_least_float32(prepared.keys[level]))
        around = _surroundings(xy, image, prepared.levels[level], config.radius)
        support = prepared.supports[level][first_point : first_point + len(xy_px)]
        if prepared.active is not None:
            support = support * prepared.active[first_point : first_point + len(xy_px), None, None, None]
        return _Volume.apply(prepared.keys[level], support, *around, prepared.levels[level], config)


class _Surroundings(NamedTuple):
    """Where (2 radius + 1)^2 samples around n points in T images hang: weights on stored rows and columns, the first
    of these, and the images."""

    wy: Float[Tensor, "n T side my"]
    wx: Float[Tensor, "n T side mx"]
    y0: Int[Tensor, "n T"]
    x0: Int[Tensor, "n T"]
    image: Int[Tensor, "n T"]

    def part(self, part: slice) -> "_Surroundings":
        return _Surroundings(*(x[part] for x in self))


def _surroundings(xy: Float[Tensor, "n T 2"], image: Int[Tensor, "n T"], level: Level, radius: int) -> _Surroundings:
    wy, y0 = patch_weights(xy[..., 1], level.y, radius)
    wx, x0 = patch_weights(xy[..., 0], level.x, radius)
    return _Surroundings(wy, wx, y0, x0, image)


def _rows(around: _Surroundings, level: Level, heads: int) -> Int[Tensor, "n heads T my mx"]:
    """Row numbers of the stored samples in a map flattened to (G hs ws heads) rows."""
    device = around.y0.device
    y = around.y0[..., None] + torch.arange(around.wy.shape[-1], device=device)
    x = around.x0[..., None] + torch.arange(around.wx.shape[-1], device=device)
    row = (around.image[..., None, None] * level.y.stored + y[..., :, None]) * level.x.stored + x[..., None, :]
    return row[:, None] * heads + torch.arange(heads, device=device)[:, None, None, None]


def _at_least_float32(features: Tensor) -> torch.dtype:
    return torch.promote_types(torch.float32, features.dtype)


def _matrix(features: Float[Tensor, "*any d"]) -> Float[Tensor, "rows d"]:
    return features.reshape(-1, features.shape[-1])


class _Volume(torch.autograd.Function):
    """All points' volumes, a chunk at a time. Nothing of a chunk is kept: the backward pass computes it again, and
    adds its share of the keys' gradient into one buffer."""

    @staticmethod
    def forward(ctx, keys, support, wy, wx, y0, x0, image, level, config):
        ctx.save_for_backward(keys, support, wy, wx, y0, x0, image)
        ctx.level, ctx.config = level, config
        around = _Surroundings(wy, wx, y0, x0, image)
        volume = wy.new_empty(*y0.shape, config.offsets, config.offsets)
        for part in _chunks(keys, around, config):
            rows = _rows(around.part(part), level, keys.shape[3])
            patch = _matrix(keys).index_select(0, rows.flatten())
            volume[part] = _chunk_volume(patch, support[part], wy[part], wx[part], config)
        return volume

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        keys, support, *fields = ctx.saved_tensors
        around, config = _Surroundings(*fields), ctx.config
        wanted = ctx.needs_input_grad[:4]
        sums = [
            torch.zeros(_matrix(keys).shape, dtype=around.wy.dtype, device=keys.device) if wanted[0] else None,
            *(torch.empty_like(x) if w else None for x, w in zip((support, *fields[:2]), wanted[1:], strict=True)),
        ]
        for part in _chunks(keys, around, config):
            rows = _rows(around.part(part), ctx.level, keys.shape[3]).flatten()
            leaves = [_matrix(keys).index_select(0, rows), support[part], around.wy[part], around.wx[part]]
            leaves = [x.detach().requires_grad_(w) for x, w in zip(leaves, wanted, strict=True)]
            with torch.enable_grad():
                volume = _chunk_volume(*leaves, config)
            found = torch.autograd.grad(volume, [x for x in leaves if x.requires_grad], grad[part])
            for i, value in zip([i for i in range(4) if wanted[i]], found, strict=True):
                if i == 0:
                    sums[0].index_add_(0, rows, value.to(sums[0].dtype))
                else:
                    sums[i][part] = value
        if wanted[0]:
            sums[0] = sums[0].view(keys.shape).to(keys.dtype)
        return *sums, None, None, None, None, None


def _chunk_volume(
    patch: Float[Tensor, "rows d"],
    support: Float[Tensor, "n P heads d"],
    wy: Float[Tensor, "n T side my"],
    wx: Float[Tensor, "n T side mx"],
    config: CorrelationConfig,
) -> Float[Tensor, "n T P P"]:
    """Products of stored keys with the query neighbourhood, interpolated to the key offsets, normalised, averaged.

    patch: rows ordered as (n heads T my mx).
    """
    (points, frames, side, my), mx = wy.shape, wx.shape[-1]
    heads, offsets = support.shape[2], config.offsets
    product = patch.view(points * heads, frames * my * mx, -1) @ rearrange(support, "n p k d -> (n k) d p")
    wy, wx = (w[:, None].expand(-1, heads, -1, -1, -1).flatten(0, 2) for w in (wy, wx))  # (n heads T, side, m)
    product = torch.bmm(wy, product.to(wy.dtype).view(len(wy), my, mx * offsets))
    volume = wx[:, None] @ product.view(len(wy), side, mx, offsets)  # (n heads T, side, side, P)
    volume = volume.view(points, heads, frames, offsets, offsets)
    if config.softmax == "keys":
        volume = volume.softmax(-2)
    elif config.softmax == "all":
        volume = volume.flatten(-2).softmax(-1).view_as(volume)
    return volume.mean(1) if heads > 1 else volume[:, 0]


def _chunks(keys: Tensor, around: _Surroundings, config: CorrelationConfig) -> list[slice]:
    points, frames = around.y0.shape
    step = config.chunk_points
    if step is None:
        samples = around.wy.shape[-1] * around.wx.shape[-1]
        bytes_per_point = 4 * keys.shape[3] * frames * samples * (keys.shape[4] + config.offsets)
        step = max(1, (_CPU_CHUNK_BYTES if keys.device.type == "cpu" else _GPU_CHUNK_BYTES) // bytes_per_point)
    return [slice(i, min(i + step, points)) for i in range(0, points, step)]
