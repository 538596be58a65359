"""What pseudo tracks are made of: a clip's views, the points that are asked for, the tracks of one query frame."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from mvtrack.config.checked import config
from mvtrack.geometry.camera import Camera
from mvtrack.video.video import Video

_MOST_SIDE = 4096


class QueryFrame(NamedTuple):
    """A view and a frame of it, over which a grid of points is laid. Its points are followed together."""

    view: int
    frame: int


@config
class GridQueries:
    """Which points are asked for. grid: rows and columns; every point is the centre of a cell, as the tokens of a
    480x832 picture are at 30 x 52 (MVTrack4Gen A.1). frames: numbers, or `all`. views: in whose frames."""

    grid: tuple[int, int] = (30, 52)
    frames: Literal["all"] | tuple[int, ...] = (0,)
    views: Literal["first", "all"] = "first"

    def __post_init__(self) -> None:
        if not all(1 <= side <= _MOST_SIDE for side in self.grid):
            raise ValueError(f"grid must have 1 to {_MOST_SIDE} rows and columns, got {self.grid[0]}x{self.grid[1]}")
        if self.frames != "all" and (not self.frames or min(self.frames) < 0):
            raise ValueError(f"query frames must be numbers from 0 on, or all, got {self.frames}")

    @property
    def count(self) -> int:
        """Points of one query frame."""
        return self.grid[0] * self.grid[1]

    def of(self, num_views: int, num_frames: int) -> list[QueryFrame]:
        """All query frames of a clip, those of a view one after the other. Raises ValueError for frames it lacks."""
        frames = range(num_frames) if self.frames == "all" else sorted(set(self.frames))
        if max(frames) >= num_frames:
            raise ValueError(f"query frame {max(frames)} is not in the videos, which have frames 0 to {num_frames - 1}")
        views = range(num_views if self.views == "all" else 1)
        return [QueryFrame(view, frame) for view in views for frame in frames]

    def points(self, size: tuple[int, int]) -> Float[Tensor, "n 2"]:
        """Raster pixels of an image of a size (H, W), row by row."""
        steps = ((torch.arange(count) + 0.5) * (side / count) for count, side in zip(self.grid, size, strict=True))
        y, x = torch.meshgrid(*steps, indexing="ij")
        return torch.stack([x, y], -1).flatten(0, 1)


@dataclass(frozen=True)
class ClipViews:
    """Videos of the same moments, and the cameras (T,) of each at its own size, in one world."""

    videos: tuple[Video, ...]
    cameras: tuple[Camera, ...]

    @property
    def num_frames(self) -> int:
        return len(self.videos[0])

    def ordered(self, order: Sequence[int]) -> "ClipViews":
        """A selection of the views, in the order given."""
        return ClipViews(tuple(self.videos[i] for i in order), tuple(self.cameras[i] for i in order))

    def first(self, view: int) -> list[int]:
        """All views in order, but this one first."""
        return [view, *(i for i in range(len(self.videos)) if i != view)]


@dataclass(frozen=True)
class FrameTracks:
    """Tracks of the n points of one query frame, in the raster pixels of each view's own video.

    found: whether the point was found in the view at all; where it was not, xy and visible mean nothing.
    """

    xy: Float[Tensor, "V T n 2"]
    visible: Bool[Tensor, "V T n"]
    found: Bool[Tensor, "V n"]

    def cleaned(self, views: ClipViews) -> "FrameTracks":
        """Nothing is visible outside the picture, or where it was not found; there xy is 0."""
        size = torch.tensor([video.size[::-1] for video in views.videos])[:, None, None]
        inside = ((self.xy >= 0) & (self.xy < size)).all(-1)
        known = self.found[:, None]
        return FrameTracks(torch.where(known[..., None], self.xy, 0.0), self.visible & inside & known, self.found)

    def views(self, order: Sequence[int]) -> "FrameTracks":
        """Tracks of views in this order, as tracks of views 0, 1, 2, ..."""
        back = torch.tensor(order).argsort()
        return FrameTracks(self.xy[back], self.visible[back], self.found[back])
