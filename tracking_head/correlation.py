"""Local 4D correlation without upsampled maps: exact, chunked over points, recomputed in the backward pass.

A neighbourhood of an interpolated level hangs on a few stored tokens by a small matrix (pyramid.py), and bilinear
interpolation commutes with dot products. So each point's few tokens are multiplied with its query neighbourhood, which
is sampled once a clip, and the products are interpolated. What the head does first with a volume, a linear layer, is
done chunk by chunk too, so that no volume is ever written to memory. The slow reference is correlation_reference.py.
"""

import math
from collections.abc import Sequence
from functools import cached_property
from typing import NamedTuple

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor
from torch.autograd.function import once_differentiable

from tracking_head.pyramid import CorrelationConfig, Level, level_maps, patch_weights, pyramid_levels
from tracking_head.shapes import Bool, Float, Int

# The largest tensor of a chunk. On a CPU all of them stay in the cache, and below what the C library gives back when it
# is freed (`return_freed_memory`): pages that are mapped anew for every tensor cost more than the arithmetic.
_CPU_CHUNK_BYTES = 15 * 2**18
_GPU_CHUNK_BYTES = 128 * 2**20


class CorrelationFeatures(NamedTuple):
    """What correlation needs of a clip, once for all iterations. G = B V T images, M = B V N points.

    keys: each level's stored key map. supports: query features at the P offsets around each point, in its own frame,
    already divided by the scale of the dot product. All heads of a pair that are only summed are one head here.
    shown: the frames at which estimates stand, by number among the T; None: all T in order. active: points that
    correlate; all volumes of the others are those of a support of zeros; None: all points.
    """

    keys: tuple[Float[Tensor, "heads G hs ws d"], ...]
    supports: tuple[Float[Tensor, "heads M P d"], ...]
    levels: tuple[Level, ...]
    frames: int
    points: int
    shown: Int[Tensor, "S"] | None = None
    active: Bool[Tensor, "M"] | None = None


def prepare(
    q: Float[Tensor, "B V T h w heads d"], k: Float[Tensor, "B V T h w heads d"], query_txy: Float[Tensor, "B V N 3"],
    token_px: int, config: CorrelationConfig,
) -> CorrelationFeatures:  # fmt: skip
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
        views = {id(x): rearrange(x, "g h w (n d) -> n g h w d", **split).contiguous() for x in k_maps}
        keys = [views[id(x)] for x in k_maps]
        supports = [
            rearrange(
                (sample_support(x, xy, t, level, config.radius) / scale).to(dtype), "m p (n d) -> n m p d", **split
            ).contiguous()
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
    rows = _rows(around, level).flatten()
    patch = q_map.flatten(0, 2).index_select(0, rows).to(around.wy.dtype)
    wy, wx = around.wy[:, 0], around.wx[:, 0]
    patch = rearrange(patch, "(m y x) c -> m y (x c)", y=wy.shape[-1], x=wx.shape[-1])
    lines = rearrange(wy @ patch, "m p (x c) -> m p x c", x=wx.shape[-1])
    return rearrange(wx[:, None] @ lines, "m p q c -> m (p q) c")


def correlate(
    prepared: CorrelationFeatures, xy_px: Float[Tensor, "m T 2"], level: int, config: CorrelationConfig,
    first_point: int = 0,
) -> Float[Tensor, "m T P P"]:  # fmt: skip
    """One level's volume around current estimates: [key offset, query offset], both row by row from the upper left.

    xy_px: raster pixels in the frames shown, of the points from number `first_point` on among all M = B V N. The result
    is float32 (float64 for float64 features); gradients reach q and k, and the estimates if `config.estimate_gradient`.
    """
    return _correlated(prepared, xy_px, (level,), config, None, first_point, keep=False)[0]


def embed_correlation(
    prepared: CorrelationFeatures, xy_px: Float[Tensor, "m T 2"], config: CorrelationConfig,
    weight: Float[Tensor, "C PP"], first_point: int = 0, keep: bool = False,
) -> Float[Tensor, "m T levels C"]:  # fmt: skip
    """`correlate(...).flatten(-2) @ weight.T` of every level, without the volumes. Its dtype is the weight's, or under
    autocast autocast's.

    keep: the heads' volumes for the backward pass, which computes them again otherwise.
    """
    device, dtype = xy_px.device.type, weight.dtype
    if torch.is_autocast_enabled(device):
        dtype = torch.get_autocast_dtype(device)
    by_query = rearrange(weight, "c (key query) -> c (query key)", key=config.offsets).to(dtype)
    levels = range(len(prepared.levels))
    return torch.stack(_correlated(prepared, xy_px, levels, config, by_query, first_point, keep), -2)


def _correlated(
    prepared: CorrelationFeatures, xy_px: Float[Tensor, "m T 2"], levels: Sequence[int], config: CorrelationConfig,
    weight: Float[Tensor, "C PP"] | None, first_point: int, keep: bool,
) -> list[Float[Tensor, "m T *volume"]]:  # fmt: skip
    part = slice(first_point, first_point + len(xy_px))
    point = torch.arange(part.start, part.stop, device=xy_px.device)
    shown = torch.arange(prepared.frames, device=xy_px.device) if prepared.shown is None else prepared.shown
    image = (point // prepared.points * prepared.frames)[:, None] + shown
    results = []
    with torch.autocast(xy_px.device.type, enabled=False):
        xy = (xy_px if config.estimate_gradient else xy_px.detach()).to(_at_least_float32(prepared.keys[0]))
        for level, keys, support in (
            (prepared.levels[s], prepared.keys[s], prepared.supports[s][:, part]) for s in levels
        ):
            if prepared.active is not None:
                support = support * prepared.active[part, None, None]
            wy, wx, *place = _surroundings(xy, image, level, config.radius)
            results.append(_Correlation.apply(keys, support, wy, wx, weight, *place, level, config, keep))
    return results


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


def _rows(around: _Surroundings, level: Level) -> Int[Tensor, "n T my mx"]:
    """Row numbers of the stored samples in a map flattened to (G hs ws) rows."""
    device = around.y0.device
    y = around.y0[..., None] + torch.arange(around.wy.shape[-1], device=device)
    x = around.x0[..., None] + torch.arange(around.wx.shape[-1], device=device)
    return (around.image[..., None, None] * level.y.stored + y[..., :, None]) * level.x.stored + x[..., None, :]


def _at_least_float32(features: Tensor) -> torch.dtype:
    return torch.promote_types(torch.float32, features.dtype)


class _Correlation(torch.autograd.Function):
    """All points' volumes, or a linear map of them, a chunk at a time, with the gradient written out.

    The heads' volumes are kept for the backward pass, or computed again there.
    """

    @staticmethod
    def forward(ctx, keys, support, wy, wx, weight, y0, x0, image, level, config, keep):
        around = _Surroundings(wy, wx, y0, x0, image)
        size, dtype = (config.offsets, config.offsets), wy.dtype
        if weight is not None:
            size, dtype = weight.shape[:1], weight.dtype
        result = torch.empty(*y0.shape, *size, dtype=dtype, device=wy.device)
        kept = []
        for part in _chunks(keys, around, config):
            volume = _Chunk(keys, support, around, level, part).volume(config)
            mean = _mean(volume)
            result[part] = mean.mT if weight is None else F.linear(mean.flatten(-2).to(dtype), weight)
            if keep and any(ctx.needs_input_grad):
                kept.append(volume)
        ctx.save_for_backward(keys, support, wy, wx, weight, y0, x0, image, *kept)
        ctx.level, ctx.config = level, config
        return result

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        keys, support, wy, wx, weight, y0, x0, image, *kept = ctx.saved_tensors
        around, config = _Surroundings(wy, wx, y0, x0, image), ctx.config
        wanted, inputs = ctx.needs_input_grad[:5], (keys, support, wy, wx, weight)
        to_keys, to_support, to_wy, to_wx, to_weight = sums = [
            torch.zeros(x.shape, dtype=torch.promote_types(wy.dtype, x.dtype), device=x.device) if w else None
            for x, w in zip(inputs, wanted, strict=True)
        ]
        for i, part in enumerate(_chunks(keys, around, config)):
            chunk = _Chunk(keys, support, around, ctx.level, part)
            volume = kept[i] if kept else chunk.volume(config)
            to_mean = grad[part].mT if weight is None else (grad[part] @ weight).unflatten(-1, volume.shape[-2:])
            if to_weight is not None:
                mean = _mean(volume).flatten(-2).to(weight.dtype)
                to_weight += grad[part].flatten(0, 1).mT @ mean.flatten(0, 1)
            to_logits = _through_softmax(to_mean.to(wy.dtype) / len(keys), volume, config)
            if to_wy is not None or to_wx is not None:
                for total, share in zip((to_wy, to_wx), chunk.to_weights(to_logits), strict=True):
                    total[part] += share
            to_product = chunk.to_product(to_logits)
            if to_keys is not None:
                to_patch = torch.bmm(to_product, chunk.support)
                to_keys.flatten(0, -2).index_add_(0, chunk.rows, to_patch.flatten(0, 1).to(to_keys.dtype))
            if to_support is not None:
                to_support[:, part] = torch.bmm(to_product.mT, chunk.patch).unflatten(0, (len(keys), -1))
        sums = [None if s is None else s.to(x.dtype) for s, x in zip(sums, inputs, strict=True)]
        return *sums, None, None, None, None, None, None


class _Chunk:
    """The stored keys around the estimates of n points, m of them each, and their products with the query sides.

    rows: of the key map flattened to (heads G hs ws) rows, in the order of the keys.
    """

    def __init__(self, keys: Tensor, support: Tensor, around: _Surroundings, level: Level, part: slice) -> None:
        self.around, self.heads = around.part(part), len(keys)
        self.support = support[:, part].flatten(0, 1)  # (heads n, P, d)
        first = torch.arange(self.heads, device=keys.device) * keys[0, ..., 0].numel()
        self.rows = (first[:, None] + _rows(self.around, level).flatten()).flatten()
        self.patch = keys.flatten(0, -2).index_select(0, self.rows).view(len(self.support), -1, keys.shape[-1])

    @cached_property
    def spread(self) -> Float[Tensor, "nT m P"]:
        """How the P key offsets hang on the stored keys."""
        wy, wx = self.around.wy.mT.flatten(0, 1), self.around.wx.mT.flatten(0, 1)
        return (wy[:, :, None, :, None] * wx[:, None, :, None, :]).flatten(3).flatten(1, 2)

    def product(self) -> Float[Tensor, "heads nT m P"]:
        """Dot products of the stored keys with the P query offsets."""
        product = torch.bmm(self.patch, self.support.mT).to(self.around.wy.dtype)
        return product.view(self.heads, *self.spread.shape)

    def volume(self, config: CorrelationConfig) -> Float[Tensor, "heads n T P P"]:
        """[query offset, key offset], normalised: softmax is over what lies together in memory."""
        product, offsets = self.product(), config.offsets
        logits = product.new_empty(self.heads, *self.around.y0.shape, offsets, offsets)
        for h in range(self.heads):
            torch.bmm(product[h].mT, self.spread, out=logits[h].flatten(0, 1))
        if config.softmax == "none":
            return logits
        return torch.softmax(logits if config.softmax == "keys" else logits.flatten(-2), -1).view_as(logits)

    def to_product(self, to_logits: Float[Tensor, "heads n T P P"]) -> Float[Tensor, "headsn Tm P"]:
        """Gradient of the products, in the keys' dtype."""
        result = to_logits.new_empty(self.heads, *self.spread.shape)
        for h in range(self.heads):
            torch.bmm(self.spread, to_logits[h].flatten(0, 1).mT, out=result[h])
        return result.to(self.patch.dtype).view(len(self.support), -1, result.shape[-1])

    def to_weights(self, to_logits: Float[Tensor, "heads n T P P"]) -> tuple[Tensor, Tensor]:
        """Gradients of the weights on rows and on columns."""
        wy, wx = self.around.wy, self.around.wx
        sizes = {"n": len(wy), "i": wy.shape[-1], "y": wy.shape[-2]}
        share = (self.product() @ to_logits.flatten(1, 2)).sum(0)
        share = rearrange(share, "(n t) (i j) (y x) -> n t i j y x", **sizes)
        return torch.einsum("ntijyx,ntxj->ntyi", share, wx), torch.einsum("ntijyx,ntyi->ntxj", share, wy)


def _mean(volume: Float[Tensor, "heads n T P P"]) -> Float[Tensor, "n T P P"]:
    return volume[0] if len(volume) == 1 else volume.mean(0)


def _through_softmax(
    grad: Float[Tensor, "n T P P"], volume: Float[Tensor, "heads n T P P"], config: CorrelationConfig
) -> Float[Tensor, "heads n T P P"]:
    """Gradient of the heads' logits."""
    if config.softmax == "none":
        return grad.expand_as(volume)
    weighted = grad * volume
    across = (-1,) if config.softmax == "keys" else (-2, -1)
    return weighted.addcmul_(volume, weighted.sum(across, keepdim=True), value=-1)


def _chunks(keys: Tensor, around: _Surroundings, config: CorrelationConfig) -> list[slice]:
    points, frames = around.y0.shape
    step = config.chunk_points
    if step is None:
        samples, offsets = around.wy.shape[-1] * around.wx.shape[-1], config.offsets
        largest = len(keys) * max(samples * keys.shape[-1], samples * offsets, offsets**2)
        budget = _CPU_CHUNK_BYTES if keys.device.type == "cpu" else _GPU_CHUNK_BYTES
        step = max(1, budget // (4 * frames * largest))
    return [slice(i, min(i + step, points)) for i in range(0, points, step)]
