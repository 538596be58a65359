"""Renders of Objaverse and GSO for SyncDreamer: sixteen views of one object from a ring of known cameras, over white.

{name}/000.png … 015.png, and camera-16.pkl, of the authors' meta_info, beside the objects' folders
"""

import pickle
from pathlib import Path

import numpy as np
import torch

from mvtrack.data.public.encoded_images import EncodedImages
from mvtrack.data.public.layout import DatasetLayout, MultiViewScene, SceneFiles, SceneView
from mvtrack.geometry.camera import Camera
from mvtrack.geometry.pose_files.geometry import c2w_from_w2c, full_poses
from mvtrack.geometry.pose_files.parse import place_of

_COUNT, _SIDE = 16, 256  # views, and pixels that K is for
_CAMERAS = "camera-16.pkl"


class SyncDreamer(DatasetLayout):
    name = "syncdreamer"
    title = "SyncDreamer's sixteen views"
    domain = "rendered"
    signs = ("000.png", "015.png", f"../{_CAMERAS}")

    def scene_name(self, root: Path, folder: Path) -> str:
        return folder.resolve().name

    def is_scene(self, folder: Path) -> bool:
        return (folder / "000.png").is_file()

    def files(self, scene: SceneFiles) -> list[Path]:
        return [scene.path.parent / _CAMERAS, *(scene.path / f"{i:03d}.png" for i in range(_COUNT))]

    def read(self, scene: SceneFiles) -> MultiViewScene:
        path = scene.path.parent / _CAMERAS
        meta = read_cameras_pickle(path)
        K, poses = (torch.from_numpy(np.asarray(meta[i], np.float64)) for i in (0, 4))
        if tuple(K.shape) != (3, 3) or tuple(poses.shape) != (_COUNT, 3, 4):
            shapes = f"{tuple(K.shape)} and {tuple(poses.shape)}"
            raise ValueError(f"{path}: K must be (3, 3) and poses (16, 3, 4), got {shapes}")
        c2w = c2w_from_w2c(full_poses(poses), place_of(path))
        views = []
        for i in range(_COUNT):
            picture = scene.path / f"{i:03d}.png"
            if not picture.is_file():
                raise ValueError(f"{scene.path} lacks {picture.name}")
            video = EncodedImages.of(picture, [picture.read_bytes()], 24.0, over=255)
            camera = Camera(c2w[i][None], K[None], (_SIDE, _SIDE))
            camera = camera.resized(video.size) if video.size[0] == video.size[1] else camera
            views.append(SceneView(picture.stem, video, camera))
        return MultiViewScene(scene.name, tuple(views), is_still=True)


class _ArraysOnly(pickle.Unpickler):
    """Plain values and numpy arrays; any other name in the file is an error, and none of its code is run."""

    _ALLOWED = {("ndarray", "numpy"), ("dtype", "numpy")} | {
        (name, f"numpy.{core}.multiarray") for name in ("_reconstruct", "scalar") for core in ("core", "_core")
    }

    def find_class(self, module: str, name: str):
        if (name, module) not in self._ALLOWED:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}")
        return super().find_class(module, name)


def read_cameras_pickle(path: Path) -> list:
    """SyncDreamer's K, azimuths, elevations, distances and poses. Raises ValueError for a pickle of anything else."""
    try:
        with path.open("rb") as file:
            meta = _ArraysOnly(file).load()
    except (OSError, EOFError, pickle.UnpicklingError, ValueError, TypeError, IndexError, AttributeError) as error:
        raise ValueError(f"{path} is not a pickle of arrays ({' '.join(str(error).split())})") from None
    if not isinstance(meta, list | tuple) or len(meta) != 5:
        raise ValueError(f"{path} must hold K, azimuths, elevations, distances and poses")
    return list(meta)
