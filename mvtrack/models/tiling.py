"""Pictures in overlapping tiles that are blended where they meet."""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor


class Tile(NamedTuple):
    """Rows and columns [start, stop) of one tile, in cells."""

    top: int
    bottom: int
    left: int
    right: int

    def of(self, picture: Tensor, scale: int = 1) -> Tensor:
        """The tile of a picture (..., H, W) with `scale` pixels a cell. A view."""
        rows = slice(self.top * scale, self.bottom * scale)
        return picture[..., rows, self.left * scale : self.right * scale]


def tiles(size: tuple[int, int], tile: tuple[int, int] | None, stride: tuple[int, int] | None) -> Iterator[Tile]:
    """Tiles that cover size (rows, columns), one every `stride` (default: half a tile); None: one tile."""
    tile = tile or size
    stride = stride or half(tile)
    for top, bottom in _spans(size[0], tile[0], stride[0]):
        for left, right in _spans(size[1], tile[1], stride[1]):
            yield Tile(top, bottom, left, right)


def half(tile: tuple[int, int]) -> tuple[int, int]:
    """The default stride: no cell lies in more than two tiles a direction."""
    return -(-tile[0] // 2), -(-tile[1] // 2)


def _spans(length: int, tile: int, stride: int) -> list[tuple[int, int]]:
    """[start, stop) at every stride, until one reaches the end; the last may be shorter."""
    spans = [(0, min(tile, length))]
    while spans[-1][1] < length:
        start = spans[-1][0] + stride
        spans.append((start, min(start + tile, length)))
    return spans


class Canvas:
    """A video put together from tiles, each weighted by a ramp over its overlap with its neighbours."""

    def __init__(self, video: Float[Tensor, "T C H W"], size: tuple[int, int], overlap: tuple[int, int]) -> None:
        """video: zeros, to be painted. size, overlap: in cells of H / rows pixels."""
        self.video, self.size, self.overlap = video, size, overlap
        self.scale = video.shape[-2] // size[0]
        self.weight = video.new_zeros(video.shape[-2:])

    def add(self, tile: Tile, first_frame: int, frames: Float[Tensor, "t C h w"]) -> None:
        """Paint the frames of a tile from `first_frame` on; every frame has to get the same tiles."""
        rows = _ramp(tile.top, tile.bottom, self.size[0], self.overlap[0], self.scale)
        columns = _ramp(tile.left, tile.right, self.size[1], self.overlap[1], self.scale)
        weight = torch.minimum(rows[:, None], columns[None]).to(frames)
        tile.of(self.video[first_frame : first_frame + len(frames)], self.scale).addcmul_(frames, weight)
        if first_frame == 0:
            tile.of(self.weight, self.scale).add_(weight)

    def finished(self) -> Float[Tensor, "T C H W"]:
        return self.video.div_(self.weight)


def _ramp(start: int, stop: int, length: int, overlap: int, scale: int) -> Float[Tensor, "n"]:
    """1 inside; rising and falling over the overlap at edges that are not the picture's own."""
    count, border = (stop - start) * scale, overlap * scale
    position = torch.arange(1, count + 1)
    ramp = torch.ones(count)
    if start > 0 and border:
        ramp = torch.minimum(ramp, position / border)
    if stop < length and border:
        ramp = torch.minimum(ramp, position.flip(0) / border)
    return ramp
