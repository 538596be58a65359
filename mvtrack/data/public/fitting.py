"""A scene's views at the size and length of a training clip: pictures, cameras, depth and tracks by one `Fit`."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from mvtrack.data.public.layout import MultiViewScene, SceneView
from mvtrack.geometry.camera import Camera
from mvtrack.video.resize import Fit
from tracking_head import Tracks


@dataclass(frozen=True)
class FittedView:
    """One view as the model takes it: RGB in [-1, 1]; depth is 0 where there is none."""

    video: Float[Tensor, "T 3 H W"]
    camera: Camera  # (T,)
    depth: Float[Tensor, "T H W"] | None = None
    masks: Bool[Tensor, "T H W"] | None = None


@dataclass(frozen=True)
class FittedScene:
    """The first num_frames of all views of a scene. fit: of a picture's size, how it meets the clip's.

    Raises ValueError for views that are shorter or have no cameras.
    """

    scene: MultiViewScene
    num_frames: int
    fit: Callable[[tuple[int, int]], Fit]

    def __post_init__(self) -> None:
        name, views, wanted = self.scene.name, self.scene.views, self.num_frames
        if self.scene.is_still and wanted > 1:
            raise ValueError(f"{name} holds photographs, which have no time: set num_frames: 1 (and model.views)")
        short = next((view.video for view in views if len(view.video) < wanted), None)
        if short is not None:
            raise ValueError(f"{short.path} has {len(short)} frames, a clip needs {wanted}")
        blind = next((view.name for view in views if view.camera is None), None)
        if blind is not None:
            raise ValueError(f"{name}: {blind} has no cameras: training needs them")

    def views(self) -> Iterator[FittedView]:
        """One after the other, so that one view's video is all that lies in memory."""
        for view in self.scene.views:
            fit = self.fit(view.video.size)
            video = fit.apply(view.video.read(0, self.num_frames, fit.scaled))
            camera = fit.camera(view.camera[: self.num_frames]).to(dtype=torch.float32)
            yield FittedView(video, camera, self._maps(view, view.depth, fit), self._maps(view, view.masks, fit))

    def _maps(self, view: SceneView, read: Callable[[int], Tensor] | None, fit: Fit) -> Tensor | None:
        if read is None:
            return None
        maps = read(self.num_frames)
        if tuple(maps.shape) != (self.num_frames, *view.video.size):
            raise ValueError(
                f"{view.video.path}: its maps are {tuple(maps.shape)}, expected {(self.num_frames, *view.video.size)}"
            )
        return fit.nearest(maps)

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
