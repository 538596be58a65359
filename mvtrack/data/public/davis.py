"""DAVIS 2016 and 2017: single videos with masks of what moves, and no cameras.

JPEGImages/480p/{sequence}/00000.jpg, Annotations/480p/{sequence}/00000.png
"""

from functools import partial
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool
from torch import Tensor

from mvtrack.data.public.files import read_index_image
from mvtrack.data.public.layout import DatasetLayout, MultiViewScene, SceneFiles, SceneView
from mvtrack.video.images import ImageVideo

VOID = 255  # in 2017 masks; in 2016's, which hold only 0 and 255, it is the object
_FPS = 24.0
_IMAGES, _MASKS = "JPEGImages", "Annotations"


class DavisSequences(DatasetLayout):
    """One view without cameras: for evaluation, and for what estimates cameras; training needs more."""

    name = "davis"
    title = "DAVIS"
    domain = "photo"
    bases = (f"{_IMAGES}/480p/*",)
    signs = ("00000.jpg",)

    def scene_name(self, root: Path, folder: Path) -> str:
        return folder.name

    def files(self, scene: SceneFiles) -> list[Path]:
        return sorted(scene.path.glob("*.jpg"))

    def read(self, scene: SceneFiles) -> MultiViewScene:
        pictures = self.files(scene)
        if not pictures:
            raise ValueError(f"{scene.path} holds no .jpg")
        video = ImageVideo.of(scene.path, pictures, _FPS)
        folder = scene.path.parents[2] / _MASKS / scene.path.parent.name / scene.path.name
        masks = [folder / f"{path.stem}.png" for path in pictures] if folder.is_dir() else None
        read = None if masks is None else partial(moving_objects, masks, video.size)
        return MultiViewScene(scene.name, (SceneView(scene.name, video, masks=read),))


def moving_objects(files: list[Path], size: tuple[int, int], frames: int | None = None) -> Bool[Tensor, "T H W"]:
    """What is annotated, of any object, in the pictures' own pixels (H, W)."""
    images = [read_index_image(path) for path in files[:frames]]
    for path, image in zip(files, images, strict=False):
        if image.shape != size:
            raise ValueError(f"the mask {path} is {image.shape}, its picture {size}")
    masks = torch.from_numpy(np.stack(images))
    binary = set(masks.unique().tolist()) <= {0, VOID}
    return masks > 0 if binary else (masks > 0) & (masks != VOID)
