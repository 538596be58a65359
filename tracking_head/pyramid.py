"""Geometry of the correlation's pyramid: which cells each level has, and how they hang on the stored tokens."""

from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from tracking_head.checks import check_fields
from tracking_head.shapes import Float, Int


@dataclass(frozen=True)
class CorrelationConfig:
    """Options of the multi-scale local 4D correlation (MVTrack4Gen §5.2, B.2; method §4). Defaults are the method's.

    levels, base_stride_px: level s has cells of base_stride_px * 2^s pixels, s = 0 .. levels - 1.
    radius: offsets run from -radius to radius cells, (2 radius + 1)^2 = P of them around either point.
    softmax: over the P key offsets of each query offset, over all P^2 values, or none.
    heads: mean of the heads' volumes, or `sum`: one dot product over the full width, scaled by sqrt(heads * d).
    scaled: divide dot products by sqrt(d); peers do not.
    coarse: how levels coarser than the tokens come about: interpolated from the token grid (the paper), or 2x2 means of
        the level before (peers; the better choice from three levels beyond the tokens on, where interpolation skips
        tokens).
    coordinates: `raster`, this project's, or `index`, the peers' x / stride with integer = cell centre, which looks
        half a cell further to the right and below.
    chunk_points: points whose volumes exist at once; None: as many as stay in the cache (CPU) or take 0.5 GiB (GPU).
    dtype: of the dot products; None: the features' own. Interpolation and softmax are always at least float32.
    estimate_gradient: let gradients flow into the current estimates; peers and the method cut them off.
    """

    levels: int = 4
    radius: int = 3
    base_stride_px: int = 4
    softmax: Literal["keys", "all", "none"] = "keys"
    heads: Literal["mean", "sum"] = "mean"
    scaled: bool = True
    coarse: Literal["interpolate", "pool"] = "interpolate"
    coordinates: Literal["raster", "index"] = "raster"
    chunk_points: int | None = None
    dtype: Literal["float32", "bfloat16"] | None = None
    estimate_gradient: bool = False

    def __post_init__(self) -> None:
        check_fields(self, {"levels": 1, "radius": 0, "base_stride_px": 1, "chunk_points": 1})

    @property
    def offsets(self) -> int:
        """P, the number of offsets around a point."""
        return (2 * self.radius + 1) ** 2


@dataclass(frozen=True)
class Axis:
    """One axis of a level: `cells` cells made of `stored` samples; a pixel coordinate x lies at cells_per_px x - shift,
    where an integer is a cell's centre."""

    stored: int
    cells: int
    cells_per_px: float
    shift: float


@dataclass(frozen=True)
class Level:
    """One pyramid level. Finer than the tokens: the tokens are stored. Coarser: its own, small map is."""

    y: Axis
    x: Axis


def pyramid_levels(grid: tuple[int, int], token_px: int, config: CorrelationConfig) -> tuple[Level, ...]:
    """The levels over a token grid (h, w). Cells count floor(extent / stride), at least one.

    Where a stride does not divide the extent, interpolated levels stretch their cells to fill it and pooled levels
    leave the rest out. Raises ValueError where pooling runs out of cells or has no level to start from.
    """
    strides = [config.base_stride_px * 2**s for s in range(config.levels)]
    if config.coarse == "pool" and strides[-1] > token_px and token_px not in strides:
        raise ValueError(
            f"correlation.coarse: pool needs a level at the tokens' own {token_px} px, got levels of {strides} px; "
            "change correlation.base_stride_px or use coarse: interpolate"
        )
    axes = [_axis_levels(tokens, token_px, config) for tokens in grid]
    return tuple(Level(y, x) for y, x in zip(*axes, strict=True))


def _axis_levels(tokens: int, token_px: int, config: CorrelationConfig) -> list[Axis]:
    extent = tokens * token_px
    shift = 0.5 if config.coordinates == "raster" else 0.0
    axes: list[Axis] = []
    for s in range(config.levels):
        stride = config.base_stride_px * 2**s
        if config.coarse == "pool" and axes and stride > token_px:
            cells, per_px = axes[-1].cells // 2, axes[-1].cells_per_px / 2
            if cells == 0:
                raise ValueError(f"a grid of {tokens} tokens cannot be pooled to level {s}; lower correlation.levels")
        else:
            cells = max(1, extent // stride)
            per_px = cells / extent if config.coordinates == "raster" else 1 / stride
        axes.append(Axis(tokens if cells > tokens else cells, cells, per_px, shift))
    return axes


def level_maps(
    features: Float[Tensor, "G h w C"], levels: tuple[Level, ...], config: CorrelationConfig
) -> list[Float[Tensor, "G hs ws C"]]:
    """What each level stores: the features themselves, or a smaller map. No map is larger than the token grid."""
    maps: list[Tensor] = []
    for s, level in enumerate(levels):
        stored = (level.y.stored, level.x.stored)
        if stored == tuple(features.shape[1:3]):
            maps.append(features)
            continue
        pooled = config.coarse == "pool" and s > 0
        source = rearrange(maps[-1] if pooled else features, "g h w c -> g c h w")
        small = F.avg_pool2d(source, 2) if pooled else resize(source, stored)
        maps.append(rearrange(small, "g c h w -> g h w c").contiguous())
    return maps


def resize(x: Float[Tensor, "G C h w"], size: tuple[int, int]) -> Float[Tensor, "G C hs ws"]:
    """Bilinear, cell centres at half pixels, borders repeated; never a blur (B.2: "interpolate")."""
    return F.interpolate(x, size=size, mode="bilinear", align_corners=False)


@dataclass(frozen=True)
class Table:
    """How the 2 radius + 2 consecutive cells from each possible first cell hang on `stored` samples.

    weight: (positions, 2 radius + 2, m) on m consecutive samples; start: the first of them. Row 0 belongs to cell
    -radius - 1 as centre; cells outside the level repeat its border.
    """

    weight: Float[Tensor, "positions cells m"]
    start: Int[Tensor, "positions"]
    radius: int
    cells: int


@lru_cache(maxsize=256)
@torch.inference_mode(False)  # what is kept may be used in training later
def axis_table(axis: Axis, radius: int, device: torch.device) -> Table:
    """The table of an axis, kept for the next call."""
    identity = torch.eye(axis.stored, dtype=torch.float64)
    if axis.cells != axis.stored:
        identity = F.interpolate(identity[None], size=axis.cells, mode="linear", align_corners=False)[0]
    spread = identity.mT  # (cells, stored)
    centre = torch.arange(-radius - 1, axis.cells + radius + 1)
    cell = (centre[:, None] + torch.arange(-radius, radius + 2)).clamp(0, axis.cells - 1)
    rows = spread[cell]  # (positions, 2 radius + 2, stored)
    used = (rows != 0).any(1).int()
    first = used.argmax(1)
    last = axis.stored - 1 - used.flip(1).argmax(1)
    m = int((last - first).max()) + 1
    start = first.clamp(max=axis.stored - m)
    columns = (start[:, None] + torch.arange(m))[:, None].expand(-1, rows.shape[1], -1)
    return Table(rows.gather(2, columns).to(device), start.to(device), radius, axis.cells)


def patch_weights(
    x_px: Float[Tensor, "*points"], axis: Axis, radius: int
) -> tuple[Float[Tensor, "*points side m"], Int[Tensor, "*points"]]:
    """Weights of the 2 radius + 1 samples around a pixel coordinate on m stored ones, and the first of these.

    Bilinear with repeated borders, exactly as sampling the interpolated level; differentiable in x_px.
    """
    table = axis_table(axis, radius, x_px.device)
    position = (x_px * axis.cells_per_px - axis.shift).clamp(-radius - 1, axis.cells + radius)
    below = position.detach().floor()
    row = (below.nan_to_num().long() + radius + 1).clamp(0, len(table.start) - 1)
    cells = table.weight.to(x_px.dtype)[row]
    return torch.lerp(cells[..., :-1, :], cells[..., 1:, :], (position - below)[..., None, None]), table.start[row]
