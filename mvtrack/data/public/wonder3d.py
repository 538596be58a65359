"""Renders of Objaverse and GSO for Wonder3D: six orthographic views of one object, over white.

{uid[:3]}/{uid}/rgb_000_front.{png,webp}, 000_front_RT.txt, depth_000_front.png, mask_000_front.png, and five more views
"""

from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from mvtrack.config.datasets import DatasetOptions
from mvtrack.data.public.encoded_images import EncodedImages
from mvtrack.data.public.files import read_map, same_size
from mvtrack.data.public.layout import DatasetLayout, MultiViewScene, SceneFiles, SceneView
from mvtrack.geometry.camera import Camera
from mvtrack.geometry.pose_files.geometry import axes_to_opencv, c2w_from_w2c, full_poses
from mvtrack.geometry.pose_files.parse import place_of, read_text, text_number

VIEWS = ("front", "front_right", "right", "back", "left", "front_left")  # the order of training and use
_DEPTH_UNITS = 10 / 65535  # a step of the stored 16 bits
_SUFFIXES = (".png", ".webp")


class Wonder3D(DatasetLayout):
    name = "wonder3d"
    title = "Wonder3D's six orthographic views"
    domain = "rendered"
    bases = ("*/*", "*", ".")
    options = ("ortho_scale",)
    signs = ("rgb_000_front.*", "000_front_RT.txt")

    def scene_name(self, root: Path, folder: Path) -> str:
        return folder.resolve().name

    def scenes(self, root: Path, options: DatasetOptions) -> list[SceneFiles]:
        scale = () if options.ortho_scale is None else (options.ortho_scale,)
        return [replace(scene, detail=scale) for scene in super().scenes(root, options)]

    def files(self, scene: SceneFiles) -> list[Path]:
        found = []
        for view in VIEWS:
            maps = (scene.path / f"{kind}_000_{view}.png" for kind in ("depth", "mask"))
            found += [_picture(scene.path, view), scene.path / f"000_{view}_RT.txt", *(m for m in maps if m.is_file())]
        return found

    def read(self, scene: SceneFiles) -> MultiViewScene:
        if not scene.detail:
            raise ValueError(
                f"{scene.path}: no file says how many units an orthographic picture is wide: say it with --ortho-scale "
                "(Blender's ortho_scale, 1.25 in the authors' renderer)"
            )
        views = []
        for name in VIEWS:
            picture = _picture(scene.path, name)
            video = EncodedImages.of(picture, [picture.read_bytes()], 24.0, over=255)
            height, width = video.size
            focal = width / scene.detail[0]
            K = torch.tensor([[focal, 0, width / 2], [0, focal, height / 2], [0, 0, 1]], dtype=torch.float64)
            c2w = axes_to_opencv(_world_to_camera(scene.path / f"000_{name}_RT.txt"), "opengl")
            camera = Camera(c2w, K[None], video.size, projection="orthographic")
            depth, mask = (scene.path / f"{kind}_000_{name}.png" for kind in ("depth", "mask"))
            masks = partial(_mask, mask, video.size) if mask.is_file() else None
            known = depth.is_file() and masks is not None
            views.append(SceneView(name, video, camera, partial(_depth, depth, masks) if known else None, masks))
        return MultiViewScene(scene.name, tuple(views), is_still=True)


def _picture(folder: Path, view: str) -> Path:
    found = (folder / f"rgb_000_{view}{suffix}" for suffix in _SUFFIXES)
    picture = next((path for path in found if path.is_file()), None)
    if picture is None:
        raise ValueError(f"{folder} lacks rgb_000_{view}.png (or .webp)")
    return picture


def _world_to_camera(path: Path) -> Float[Tensor, "1 4 4"]:
    """c2w of a 3x4 world-to-camera matrix, in the file's axes (Blender's: x right, y up, z backward)."""
    place = place_of(path)
    tokens = read_text(path).split()
    if len(tokens) != 12:
        raise place.error(f"expected 3 rows of 4 numbers, got {len(tokens)} numbers")
    rows = torch.tensor([text_number(token, place) for token in tokens], dtype=torch.float64)
    return c2w_from_w2c(full_poses(rows.view(1, 3, 4)), place)


def _mask(path: Path, size: tuple[int, int], _frames: int) -> Bool[Tensor, "1 H W"]:
    return same_size([read_map(path)], size, path) > 127


def _depth(path: Path, masks, _frames: int) -> Float[Tensor, "1 H W"]:
    object_ = masks(1)
    stored = same_size([read_map(path, np.uint16)], tuple(object_.shape[1:]), path)
    return torch.where(object_, stored.float() * _DEPTH_UNITS, 0.0)
