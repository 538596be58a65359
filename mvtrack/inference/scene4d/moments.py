"""A re-shot video as moments in one world: coloured surfaces of source and result, cameras, and tracks in 3D."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor

from mvtrack.geometry.camera import Camera, pixel_grid, unproject
from mvtrack.inference.full_resolution.region import resized
from mvtrack.inference.full_resolution.stream import Surfaces
from mvtrack.inference.scene4d.result import Result, Tracks2D
from mvtrack.models.refiner.cost_volume import FAR
from mvtrack.video.video import Video

VIEWS = ("source", "result")
_CONTOUR = 0.08  # step of inverse depth to a neighbour, relative to the nearer one, across which no surface reaches
_SKY = 1.05 * FAR  # inverse depth, in 1 / the subject's distance, below which nothing is exported


@dataclass(frozen=True)
class Surface:
    """What one view shows at one moment, on a grid of its pixels. seen: the source shows it at that very moment, where
    it is not seen it was filled in from other moments or from what lies around. used: not sky, not across a contour."""

    colors: UInt8[Tensor, "h w 3"]
    depth: Float[Tensor, "h w"]
    seen: Bool[Tensor, "h w"]
    used: Bool[Tensor, "h w"]
    camera: Camera

    @cached_property
    def points(self) -> Float[Tensor, "h w 3"]:
        """In the world, in the cameras' unit."""
        grid = pixel_grid(self.camera.size).to(self.camera.c2w)
        flat = unproject(grid.flatten(0, 1), self.depth.flatten().to(self.camera.c2w), self.camera)
        return flat.unflatten(0, self.camera.size)

    def triangles(self) -> Int[np.ndarray, "F 3"]:
        """Of the grid, as numbers of its used points; none reaches across a contour. Seen from the camera they turn
        anticlockwise."""
        number = torch.full(self.used.shape, -1, dtype=torch.long)
        number[self.used] = torch.arange(int(self.used.sum()))
        nw, ne, sw, se = number[:-1, :-1], number[:-1, 1:], number[1:, :-1], number[1:, 1:]
        faces = torch.stack([torch.stack([nw, sw, ne], -1), torch.stack([ne, sw, se], -1)], -2).flatten(0, 2)
        faces = faces[(faces >= 0).all(-1)]
        inverse = (1 / self.depth[self.used])[faces]
        flat = inverse.amin(-1) > (1 - _CONTOUR) * inverse.amax(-1)
        return faces[flat].numpy()


@dataclass(frozen=True)
class Moment:
    """number: of the frame. views: source, result."""

    number: int
    views: tuple[Surface, Surface]


@dataclass(frozen=True)
class Tracks3D:
    """xyz: in the world; NaN where no view shows the point. visible: in source and result."""

    names: tuple[str, ...]
    xyz: Float[np.ndarray, "T N 3"]
    visible: Bool[np.ndarray, "2 T N"]

    def lines(self) -> list[Float[np.ndarray, "n 3"]]:
        """Where each point that was seen twice at least went, moments left out in which it was not."""
        paths = (self.xyz[:, n][np.isfinite(self.xyz[:, n, 0])] for n in range(len(self.names)))
        return [path for path in paths if len(path) > 1]


class Scene4D:
    """points: at most so many a view and moment, on an even grid; None: as many as surfaces are known at. every: takes
    each so many-th frame."""

    def __init__(self, result: Result, points: int | None = None, every: int = 1) -> None:
        if every < 1 or every > result.camera.shape[1]:
            raise ValueError(
                f"--every must lie in 1 to {result.camera.shape[1]}, the frames of the result, got {every}"
            )
        if points is not None and points < 16:
            raise ValueError(f"--points must be 16 at least, got {points}")
        self.result, self.points, self.every = result, points, every
        self.numbers = list(range(0, result.camera.shape[1], every))
        self.tracks_2d = result.tracks()
        count = 0 if self.tracks_2d is None else len(self.tracks_2d.names)
        self._source: Video | None = None
        self._lifted = np.full((len(self.numbers), count, 3), np.nan)

    @property
    def fps(self) -> float:
        return self.result.fps / self.every

    @property
    def camera(self) -> Camera:
        """(2, n) of the moments, float64, of the result's size."""
        return self.result.camera[:, self.numbers]

    def moments(self) -> Iterator[Moment]:
        """In order; geometry is computed as they are asked for."""
        for number, surfaces in enumerate(self.result.surfaces()):
            if number % self.every == 0:
                moment = self._moment(number, surfaces)
                self._lift(number // self.every, number, moment)
                yield self._thinned(moment)

    def tracks(self) -> Tracks3D | None:
        """After the last moment: points that were followed, in the world."""
        if self.tracks_2d is None:
            return None
        return Tracks3D(self.tracks_2d.names, self._lifted, self.tracks_2d.visible[:, self.numbers].numpy())

    def pictures(self, number: int) -> tuple[UInt8[Tensor, "3 H W"], UInt8[Tensor, "3 H W"]]:
        """Source and result at a frame, of the result's size."""
        if self._source is None:
            self._source = self.result.open_source()  # another decoder: geometry's reads ahead
        return self.result.region.picture(self._source.read(number, number + 1)[0]), self._made(number)

    def _made(self, number: int) -> UInt8[Tensor, "3 H W"]:
        height, width = self.result.region.size
        return self.result.video.read(number, number + 1)[0][:, :height, :width]  # files have even sides

    def _moment(self, number: int, surfaces: Surfaces) -> Moment:
        result, size = self.result, tuple(surfaces.inverse_depth.shape)
        pictures = (surfaces.picture, resized(self._made(number), size))
        target = surfaces.target
        everything = torch.ones_like(target.known)
        maps = ((surfaces.inverse_depth, everything), (target.inverse_depth, target.known))
        camera = result.camera[:, number].resized(size)
        return Moment(number, tuple(
            Surface(
                picture.permute(1, 2, 0), result.subject_distance / inverse.clamp_min(_SKY), seen,
                (inverse > _SKY) & ~beside_contour(inverse), camera[view],
            )
            for view, (picture, (inverse, seen)) in enumerate(zip(pictures, maps, strict=True))
        ))  # fmt: skip

    def _thinned(self, moment: Moment) -> Moment:
        if self.points is None:
            return moment
        return Moment(moment.number, tuple(thinned(surface, self.points) for surface in moment.views))

    def _lift(self, index: int, number: int, moment: Moment) -> None:
        """Tracked points onto the surface that the source shows, else onto the result's."""
        if self.tracks_2d is None:
            return
        for view in (1, 0):
            seen = self.tracks_2d.visible[view, number]
            xyz = lifted(self.tracks_2d, view, number, moment.views[view])
            self._lifted[index][seen.numpy()] = xyz[seen].numpy()


def lifted(tracks: Tracks2D, view: int, number: int, surface: Surface) -> Float[Tensor, "N 3"]:
    """Points of a frame at the depth of the pixel that they are in, which a contour beside it does not change."""
    camera = surface.camera
    size, xy = camera.size, tracks.xy[view, number].to(camera.c2w)
    xy = xy * torch.tensor([size[1] / tracks.size[1], size[0] / tracks.size[0]]).to(xy)
    columns, rows = (xy[:, axis].long().clamp(0, size[1 - axis] - 1) for axis in (0, 1))
    return unproject(xy, surface.depth[rows, columns].to(xy), camera)


def beside_contour(inverse_depth: Float[Tensor, "h w"]) -> Bool[Tensor, "h w"]:
    """Pixels that lie between two surfaces: both a nearer and a farther one are next to them."""
    padded = F.pad(inverse_depth[None, None], [1] * 4, mode="replicate")
    near, far = F.max_pool2d(padded, 3, 1)[0, 0], -F.max_pool2d(-padded, 3, 1)[0, 0]
    return (inverse_depth < (1 - _CONTOUR) * near) & (far < (1 - _CONTOUR) * inverse_depth)


def thinned(surface: Surface, points: int) -> Surface:
    """Every n-th pixel of both directions, the cells' middle ones."""
    height, width = surface.depth.shape
    step = int(np.ceil(np.sqrt(height * width / points)))
    if step == 1:
        return surface
    rows, columns = torch.arange(step // 2, height, step), torch.arange(step // 2, width, step)
    camera = surface.camera
    part = (x[rows][:, columns] for x in (surface.colors, surface.depth, surface.seen, surface.used))
    # The pixel in row step // 2 + n step becomes row n: its centre, 0.5 beyond, keeps its ray.
    shift = step // 2 + 0.5 - 0.5 * step
    small = Camera(camera.c2w, camera.K, camera.size).cropped(shift, shift, (len(rows) * step, len(columns) * step))
    return Surface(*part, small.resized((len(rows), len(columns))))
