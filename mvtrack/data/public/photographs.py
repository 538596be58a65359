"""A user's own photographs of what does not move: a folder per set, with cameras, and depth or point maps.

sets/chair/images/a.jpg b.jpg …
sets/chair/cameras.json              a pose file of any format that names the pictures (or transforms.json, sparse/, …)
sets/chair/depth/a.npy …             optional: z-depth (H, W) in the cameras' unit; 0 where there is none
sets/chair/points/a.npy …            or the world point (H, W, 3) of every pixel, as networks estimate them
"""

from functools import partial
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from mvtrack.data.public.files import read_depth
from mvtrack.data.public.layout import LOOKED_AT, DatasetLayout, Fitting, MultiViewScene, SceneFiles, photograph
from mvtrack.geometry.camera import Camera, project
from mvtrack.geometry.pose_files import read_cameras
from mvtrack.geometry.pose_files.sequence import refuse_distortion
from mvtrack.video.images import images_in

_POSES = ("cameras.json", "cameras.npz", "transforms.json", "images.txt", "sparse/0", "sparse")
_ANY_POSES = " or ".join(_POSES)


class Photographs(DatasetLayout):
    name = "photographs"
    title = "a folder per set of photographs, with a pose file (docs/data.md)"
    domain = "photo"
    bases = ("*",)
    signs = ("images/*.*", _ANY_POSES)

    def fitting(self, root: Path) -> Fitting:
        sets = [path for path in islice(root.iterdir(), LOOKED_AT) if (path / "images").is_dir()]
        posed = any((path / name).exists() for path in sets for name in _POSES)
        there = self.signs[: 1 + posed] if sets else ()
        return Fitting("*", there, self.signs[len(there) :])

    def is_scene(self, folder: Path) -> bool:
        return (folder / "images").is_dir()

    def files(self, scene: SceneFiles) -> list[Path]:
        pictures, poses = images_in(scene.path / "images"), _pose_file(scene.path)
        maps = (_map(scene.path, picture) for picture in pictures)
        return [poses, *pictures, *(path for path in maps if path is not None)]

    def read(self, scene: SceneFiles) -> MultiViewScene:
        poses = _pose_file(scene.path)
        sequence = read_cameras(poses)
        refuse_distortion(sequence, f"photographs of {poses}")
        at = {Path(name).stem: i for i, name in enumerate(sequence.names)}
        views = []
        for picture in images_in(scene.path / "images"):
            if picture.stem not in at:
                raise ValueError(f"{poses} names no camera of {picture.name}")
            camera, path = sequence.camera[at[picture.stem]], _map(scene.path, picture)
            views.append(photograph(picture, camera, None if path is None else partial(_depth, path, camera)))
        if not views:
            raise ValueError(f"{scene.path / 'images'} holds no pictures")
        return MultiViewScene(scene.name, tuple(views), is_still=True)


def _pose_file(folder: Path) -> Path:
    found = next((folder / name for name in _POSES if (folder / name).exists()), None)
    if found is None:
        raise ValueError(f"{folder} holds no pose file: expected one of {', '.join(_POSES)}")
    return found


def _map(folder: Path, picture: Path) -> Path | None:
    found = (folder / kind / f"{picture.stem}.npy" for kind in ("depth", "points"))
    return next((path for path in found if path.is_file()), None)


def _depth(path: Path, camera: Camera, _frames: int) -> Float[Tensor, "1 H W"]:
    """z-depth; of a point map by the photograph's camera, 0 where a point is not finite or lies behind it."""
    if path.parent.name == "depth":
        return read_depth(path).nan_to_num(0, 0, 0).clamp(min=0)[None]
    try:
        points = torch.from_numpy(np.load(path, allow_pickle=False).astype(np.float64))
    except (OSError, ValueError, EOFError) as error:
        raise ValueError(f"cannot read the points {path}: {' '.join(str(error).split())}") from None
    if tuple(points.shape) != (*camera.size, 3):
        raise ValueError(f"the points {path} are {tuple(points.shape)}, expected {(*camera.size, 3)}")
    _, z = project(points.flatten(0, 1), camera)
    return z.nan_to_num(0, 0, 0).clamp(min=0).view(1, *camera.size).float()
