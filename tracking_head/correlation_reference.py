"""The slow, obvious correlation that the fast one (correlation.py) must equal: upsample, sample, multiply."""

import math

import torch
import torch.nn.functional as F
from einops import einsum, rearrange
from torch import Tensor

from tracking_head.pyramid import CorrelationConfig
from tracking_head.shapes import Float


def reference_volume(
    q: Float[Tensor, "B V T h w heads d"], k: Float[Tensor, "B V T h w heads d"], query_txy: Float[Tensor, "B V N 3"],
    xy_px: Float[Tensor, "B V T N 2"], token_px: int, level: int, config: CorrelationConfig,
) -> Float[Tensor, "B V T N P P"]:  # fmt: skip
    """One level's volume [key offset, query offset] around every estimate, from whole feature maps (method §4).

    Memory grows with the upsampled maps and with (2 radius + 1)^2 samples of full width per point and frame.
    """
    batch, views, frames, _, _, heads, width = q.shape
    query_map, key_map = (level_map(x, token_px, level, config) for x in (q, k))
    query_cell, key_cell = (
        cells(x, (q.shape[3], q.shape[4]), token_px, level, config) for x in (query_txy[..., 1:], xy_px)
    )

    t = query_txy[..., 0].long()
    b, v, _ = torch.meshgrid(*(torch.arange(n, device=q.device) for n in t.shape), indexing="ij")
    per_query = query_map.unflatten(0, (batch, views, frames))[b, v, t].flatten(0, 2)  # one map a query point
    query_patch = sample_patch(per_query, query_cell.flatten(0, 2)[:, None], config.radius)
    key_patch = sample_patch(key_map, key_cell.flatten(0, 2), config.radius)
    query_patch = rearrange(query_patch, "(b v n) 1 p (k d) -> b v n p k d", b=batch, v=views, k=heads)
    key_patch = rearrange(key_patch, "(b v t) n p (k d) -> b v t n p k d", b=batch, v=views, k=heads)

    if config.heads == "sum":
        logits = einsum(key_patch, query_patch, "b v t n p k d, b v n o k d -> b v t n p o")[:, :, :, :, None]
        scale = math.sqrt(heads * width)
    else:
        logits = einsum(key_patch, query_patch, "b v t n p k d, b v n o k d -> b v t n k p o")
        scale = math.sqrt(width)
    logits = logits / scale if config.scaled else logits
    if config.softmax == "keys":
        logits = logits.softmax(-2)
    elif config.softmax == "all":
        logits = logits.flatten(-2).softmax(-1).unflatten(-1, logits.shape[-2:])
    return logits.mean(4)


def level_map(
    features: Float[Tensor, "B V T h w heads d"], token_px: int, level: int, config: CorrelationConfig
) -> Float[Tensor, "G C H W"]:
    """Features as one image of cells per frame, in full."""
    image = rearrange(features, "b v t h w k d -> (b v t) (k d) h w")
    stride = config.base_stride_px * 2**level
    if config.coarse == "pool" and stride > token_px:
        for _ in range(int(math.log2(stride / token_px))):
            image = F.avg_pool2d(image, 2)
        return image
    size = [max(1, n * token_px // stride) for n in image.shape[-2:]]
    return F.interpolate(image, size=size, mode="bilinear", align_corners=False)


def cells(
    xy_px: Float[Tensor, "*any 2"], grid: tuple[int, int], token_px: int, level: int, config: CorrelationConfig
) -> Float[Tensor, "*any 2"]:
    """Pixels to cells, an integer being a cell's centre."""
    stride = config.base_stride_px * 2**level
    if config.coordinates == "index":
        return xy_px / stride
    if config.coarse == "pool" and stride > token_px:
        return xy_px / stride - 0.5
    extent = xy_px.new_tensor([grid[1] * token_px, grid[0] * token_px])
    count = torch.clamp(extent // stride, min=1)
    return xy_px / extent * count - 0.5


def sample_patch(
    image: Float[Tensor, "G C H W"], cell: Float[Tensor, "G N 2"], radius: int
) -> Float[Tensor, "G N P C"]:
    """Bilinear samples at the offsets -radius .. radius in x and y, row by row; borders repeat."""
    step = torch.arange(-radius, radius + 1, dtype=cell.dtype, device=cell.device)
    offset = torch.stack(torch.meshgrid(step, step, indexing="ij")[::-1], -1).flatten(0, 1)
    last = cell.new_tensor([max(image.shape[-1] - 1, 1), max(image.shape[-2] - 1, 1)])
    grid = 2 * (cell[:, :, None] + offset) / last - 1
    samples = F.grid_sample(image, grid, mode="bilinear", padding_mode="border", align_corners=True)
    return rearrange(samples, "g c n p -> g n p c")
