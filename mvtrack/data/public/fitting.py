"""A scene's views at the size and length of a training clip: pictures, cameras, depth and tracks by one `Fit`."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, UInt8
from torch import Tensor

from mvtrack.data.clip import Clip
from mvtrack.data.public.layout import FrameMaps, MultiViewScene, SceneView
from mvtrack.geometry.camera import Camera
from mvtrack.video.resize import Fit
from mvtrack.video.writer import from_bytes
from tracking_head import Tracks


@dataclass(frozen=True)
class FittedView:
    """One view as the model takes it, still in 8 bits: `from_bytes` makes it [-1, 1], on the device that encodes it.

    depth: 0 where there is none.
    """

    video: UInt8[Tensor, "T 3 H W"]
    camera: Camera  # (T,)
    depth: Float[Tensor, "T H W"] | None = None
    masks: Bool[Tensor, "T H W"] | None = None


@dataclass(frozen=True)
class FittedScene:
    """The first num_frames of all views of a scene, or of one path that its photographs lie on. fit: of a picture's
    size, how it meets the clip's. min_views: that training needs.

    Raises ValueError for views that are too few or too short, or that have no cameras.
    """

    scene: MultiViewScene
    num_frames: int
    fit: Callable[[tuple[int, int]], Fit]
    min_views: int = 1

    def __post_init__(self) -> None:
        name, views, wanted = self.scene.name, self.scene.views, self.num_frames
        if self.scene.is_still and wanted > 1 and not self.scene.is_path:
            raise ValueError(f"{name} holds photographs, which have no time: set num_frames: 1 and model.views")
        short = next((view.video for view in views if len(view.video) < wanted), None)
        if short is not None and not self._is_path:
            raise ValueError(f"{short.path} has {len(short)} frames, a clip needs {wanted}")
        if self._is_path and len(views) < wanted:
            raise ValueError(f"{views[0].video.path}: {name} has {len(views)} pictures, a path needs {wanted}")
        blind = next((view.name for view in views if view.camera is None), None)
        if blind is not None:
            raise ValueError(f"{views[0].video.path}: {name} has no cameras: training needs them")
        if self.num_views < self.min_views:
            shown = f"{name} holds {self.num_views} view of each moment"
            raise ValueError(f"{views[0].video.path}: {shown}, training needs {self.min_views}")

    @property
    def num_views(self) -> int:
        """Of the clip: a path is one."""
        return 1 if self._is_path else len(self.scene.views)

    @property
    def _is_path(self) -> bool:
        return self.scene.is_path and self.num_frames > 1

    def views(self) -> Iterator[FittedView]:
        """One after the other; the next is read while one is at work, and no more than these lie in memory."""
        if self._is_path:
            yield _joined([self._view(view, 1) for view in self.scene.views[: self.num_frames]])
            return
        with ThreadPoolExecutor(1) as pool:
            ahead = None
            for view in self.scene.views:
                ready, ahead = ahead, pool.submit(self._view, view, self.num_frames)
                if ready is not None:
                    yield ready.result()
            if ahead is not None:
                yield ahead.result()

    def _view(self, view: SceneView, frames: int) -> FittedView:
        fit = self.fit(view.video.size)
        video = fit.apply_bytes(view.video.read(0, frames, fit.scaled))
        camera = fit.camera(view.camera[:frames]).to(dtype=torch.float32)
        depth, masks = (_maps(view, read, fit, frames) for read in (view.depth, view.masks))
        return FittedView(video, camera, depth, masks)

    def tracks(self) -> Tracks | None:
        """Point tracks in the clip's pixels; what was cut off is not visible."""
        if self.scene.tracks is None:
            return None
        xy, visible, found = self.scene.tracks()
        frames = len(self.scene.views[0].video)
        if xy.shape[1] != frames:
            raise ValueError(f"{self.scene.name}: its tracks are of {xy.shape[1]} frames, its videos have {frames}")
        fits = [self.fit(view.video.size) for view in self.scene.views]
        xy = torch.stack([fit.to_picture(own.float()) for fit, own in zip(fits, xy, strict=True)])[:, : self.num_frames]
        size = torch.tensor(fits[0].model[::-1])
        inside = (xy >= 0).all(-1) & (xy < size).all(-1)
        return Tracks(xy, visible[:, : self.num_frames] & inside, found)

    def clip(self) -> Clip:
        """All of it in memory; depth is there where every view has one."""
        views, scene = list(self.views()), self.scene
        depth = None if any(view.depth is None for view in views) else torch.stack([view.depth for view in views])
        video = from_bytes(torch.stack([view.video for view in views]))
        camera = Camera.stack([view.camera for view in views])
        return Clip(video, camera, scene.views[0].video.fps, key=scene.name, tracks=self.tracks(), depth=depth)


def _maps(view: SceneView, read: FrameMaps | None, fit: Fit, frames: int) -> Tensor | None:
    if read is None:
        return None
    maps, expected = read(frames), (frames, *view.video.size)
    if tuple(maps.shape) != expected:
        raise ValueError(f"{view.video.path}: its maps are {tuple(maps.shape)}, expected {expected}")
    return fit.nearest(maps)


def _joined(views: list[FittedView]) -> FittedView:
    """Views of one frame each as one of many."""
    cameras = Camera.stack([view.camera[0] for view in views])
    depth, masks = _cat([view.depth for view in views]), _cat([view.masks for view in views])
    return FittedView(torch.cat([view.video for view in views]), cameras, depth, masks)


def _cat(maps: list[Tensor | None]) -> Tensor | None:
    return None if any(each is None for each in maps) else torch.cat(maps)
