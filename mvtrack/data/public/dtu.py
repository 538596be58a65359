"""DTU's tables: still objects in the dark, as MVSNet and MVSplat prepare them, and as pixelNeRF does.

Cameras/train/{00000000}_cam.txt count from 0, Rectified/scan{n}_train/rect_{001}_3_r5000.png from 1
rs_dtu_4/DTU/scan{n}/image/{000000}.png, cameras.npz
"""

import re
from pathlib import Path

import cv2
import numpy as np
import torch

from mvtrack.config.datasets import DatasetOptions
from mvtrack.data.public.files import read_arrays
from mvtrack.data.public.layout import DatasetLayout, MultiViewScene, SceneFiles, in_order, photograph
from mvtrack.geometry.camera import Camera
from mvtrack.geometry.pose_files.geometry import c2w_from_w2c
from mvtrack.geometry.pose_files.parse import place_of, read_text, text_number
from mvtrack.video.images import images_in, read_image

_MM = 1000.0
_LIGHT = 3  # of seven: the one that MVSplat and pixelSplat use
_FULL = (512, 640)  # pictures, whose K is written for a quarter of it
_QUARTER = 4.0
_BAD = {3, 4, 5, 6, 7, 16, 17, 18, 19, 20, 21, 36, 37, 38, 39}  # views that pixelNeRF leaves out: badly lit
_SKEW = 1e-3  # of the focal length


class DTU(DatasetLayout):
    name = "dtu"
    title = "DTU as MVSNet and MVSplat prepare it"
    domain = "photo"
    bases = (".", "*")
    signs = ("Rectified/scan*_train/rect_*_r5000.png", "Cameras/train/*_cam.txt")

    def scenes(self, root: Path, options: DatasetOptions) -> list[SceneFiles]:
        patterns = ("Rectified/scan*_train", "*/Rectified/scan*_train")
        folders = {path for pattern in patterns for path in root.glob(pattern)}
        found = [SceneFiles(path.name.removesuffix("_train"), path) for path in sorted(folders)]
        return in_order(found, root, options)

    def files(self, scene: SceneFiles) -> list[Path]:
        return [path for pair in self._pairs(scene.path) for path in pair]

    def _pairs(self, folder: Path) -> list[tuple[Path, Path]]:
        pictures = sorted(folder.glob(f"rect_*_{_LIGHT}_r5000.png"))
        if not pictures:
            raise ValueError(f"{folder} holds no rect_001_{_LIGHT}_r5000.png, …")
        cameras = folder.parents[1] / "Cameras/train"
        return [(path, cameras / f"{int(path.name.split('_')[1]) - 1:08d}_cam.txt") for path in pictures]

    def read(self, scene: SceneFiles) -> MultiViewScene:
        views = []
        for picture, file in self._pairs(scene.path):
            w2c, K = _camera_file(file)
            c2w = c2w_from_w2c(w2c[None], place_of(file))[0]
            c2w[:3, 3] /= _MM
            views.append(photograph(picture, Camera(c2w, K, _FULL, scale_known=True)))
        return MultiViewScene(scene.name, tuple(views), is_still=True)


def _camera_file(path: Path) -> tuple[torch.Tensor, torch.Tensor]:
    """w2c (millimetres) of lines 2 to 5 and K of lines 8 to 10, which are between the words extrinsic and intrinsic."""
    place, text = place_of(path), read_text(path)
    parts = re.fullmatch(r"\s*extrinsic\s(.*)\sintrinsic\s(.*)", text, re.DOTALL)
    if parts is None:
        raise place.error("expected the word extrinsic, 4 rows, the word intrinsic and 3 rows")
    tokens = [part.split() for part in parts.groups()]
    if len(tokens[0]) != 16 or len(tokens[1]) < 9:
        raise place.error(f"expected 16 and 9 numbers, got {len(tokens[0])} and {len(tokens[1])}")
    w2c, K = (
        torch.tensor([text_number(token, place) for token in row], dtype=torch.float64)
        for row in (tokens[0], tokens[1][:9])
    )
    return w2c.view(4, 4), K.view(3, 3) * torch.tensor([[_QUARTER], [_QUARTER], [1.0]], dtype=torch.float64)


class PixelNerfDTU(DatasetLayout):
    name = "dtu-pixelnerf"
    title = "DTU as pixelNeRF prepares it (rs_dtu_4)"
    domain = "photo"
    bases = ("rs_dtu_4/DTU/scan*", "DTU/scan*", "scan*", ".")
    signs = ("image/*.png", "cameras.npz")

    def scene_name(self, root: Path, folder: Path) -> str:
        return folder.resolve().name

    def files(self, scene: SceneFiles) -> list[Path]:
        return [scene.path / "cameras.npz", *images_in(scene.path / "image")]

    def read(self, scene: SceneFiles) -> MultiViewScene:
        pictures = images_in(scene.path / "image")
        odd = next((path for path in pictures if not path.stem.isdecimal()), None)
        if odd is not None or not pictures:
            raise ValueError(f"{odd or scene.path / 'image'}: expected pictures 000000.png, 000001.png, …")
        pictures = [path for path in pictures if int(path.stem) not in _BAD]
        names = [f"world_mat_{int(path.stem)}" for path in pictures]
        matrices = read_arrays(scene.path / "cameras.npz", *names)
        views = []
        for picture, matrix, name in zip(pictures, matrices, names, strict=True):
            if matrix.shape != (4, 4) or not np.isfinite(matrix).all():
                raise ValueError(f"{scene.path / 'cameras.npz'}: {name} must be (4, 4) numbers, got {matrix.shape}")
            projection = matrix[:3] * np.sign(np.linalg.det(matrix[:3, :3].astype(np.float64)))  # of any scale
            K, rotation, centre = cv2.decomposeProjectionMatrix(projection.astype(np.float64))[:3]
            K = K / K[2, 2]
            if K[0, 0] <= 0 or K[1, 1] <= 0 or abs(K[0, 1]) > _SKEW * K[0, 0]:
                raise ValueError(f"{scene.path / 'cameras.npz'}: {name} is no camera's projection: K is {K.tolist()}")
            c2w = np.eye(4)
            c2w[:3, :3], c2w[:3, 3] = rotation.T, (centre[:3] / centre[3])[:, 0] / _MM
            size = tuple(read_image(picture).shape[:2])
            camera = Camera(torch.from_numpy(c2w), torch.from_numpy(K), size, scale_known=True)
            views.append(photograph(picture, camera))
        return MultiViewScene(scene.name, tuple(views), is_still=True)
