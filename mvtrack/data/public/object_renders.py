"""Renders of single objects in a public layout (Wonder3D's, SyncDreamer's) as clips of one size."""

from pathlib import Path

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from mvtrack.config.datasets import DatasetOptions
from mvtrack.data.clip import Clip
from mvtrack.data.public.layout import SceneView
from mvtrack.data.public.registry import open_dataset_folder
from mvtrack.geometry.camera import Camera

LAYOUTS = ("wonder3d", "syncdreamer")
_WHITE = 0.99  # of a picture's range: what is darker somewhere belongs to the object


class ObjectRenders:
    """The objects of a folder, in order of their names; the first view of each is its front.

    side: pixels of their square pictures. ortho_scale: units that Wonder3D's pictures are wide. views: of a layout's
    views, by number; None: all. Raises ValueError for a folder of another layout, and for views that it has not.
    """

    def __init__(
        self, root: Path | str, side: int, ortho_scale: float | None = None, views: tuple[int, ...] | None = None
    ) -> None:
        self.layout, self.scenes = open_dataset_folder(Path(root), DatasetOptions(ortho_scale=ortho_scale))
        if self.layout.name not in LAYOUTS:
            raise ValueError(f"{root} is {self.layout.title}: renders of objects are {' or '.join(LAYOUTS)}")
        self.root, self.side, self.views = root, side, views

    def __len__(self) -> int:
        return len(self.scenes)

    def clip(self, number: int) -> Clip:
        """An object over white, its masks and, where its files have it, z-depth, 0 beside it; else depth is None."""
        scene = self.layout.read(self.scenes[number])
        count = len(scene.views)
        if self.views is not None:
            if max(self.views) >= count:
                raise ValueError(f"{self.root}: {scene.name} has views 0 to {count - 1}, not {max(self.views)}")
            scene = scene.select(list(self.views))
        video = torch.stack([self._picture(view) for view in scene.views])
        cameras = [view.camera.to(dtype=torch.float32).resized((self.side, self.side)) for view in scene.views]
        masks = torch.stack([self._mask(view, own) for view, own in zip(scene.views, video, strict=True)])
        depth = None
        if all(view.depth is not None for view in scene.views):
            depth = torch.stack([self._map(view.depth(1).float()) for view in scene.views]) * masks
        return Clip(video, Camera.stack(cameras), key=scene.name, depth=depth, masks=masks, domain="rendered")

    def _picture(self, view: SceneView) -> Float[Tensor, "1 3 H W"]:
        height, width = view.video.size
        if height != width:
            raise ValueError(f"{view.video.path} is {width}x{height}: renders of objects are square")
        return view.video.read(0, 1, (self.side, self.side)).float() / 127.5 - 1

    def _mask(self, view: SceneView, picture: Float[Tensor, "1 3 H W"]) -> Bool[Tensor, "1 H W"]:
        if view.masks is None:
            return (picture < 2 * _WHITE - 1).any(1)
        return self._map(view.masks(1).float()) > 0.5

    def _map(self, values: Float[Tensor, "1 h w"]) -> Float[Tensor, "1 H W"]:
        """Nearest pixels: depths do not blend."""
        return F.interpolate(values[None], (self.side, self.side), mode="nearest-exact")[0]
