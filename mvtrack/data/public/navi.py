"""NAVI: photographs of objects with poses and depth by a scan, and its lists of pairs for correspondence.

{object}/{multiview-00-model | video-00-model | wild_set}/annotations.json, images/000.jpg, depth/000.png, masks/000.png
custom_splits/pairwise_pixel_correspondences/pairs-{multiview,wild_set}.txt
"""

from functools import partial
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from mvtrack.data.public.files import inside, read_map, same_size
from mvtrack.data.public.layout import DatasetLayout, MultiViewScene, SceneFiles, SceneView, photograph
from mvtrack.geometry.camera import Camera
from mvtrack.geometry.pose_files.geometry import c2w_from_w2c, poses_of
from mvtrack.geometry.pose_files.parse import (
    Fields,
    lines_of,
    objects,
    place_of,
    read_json,
    read_text,
    side_px,
    text_number,
)
from mvtrack.geometry.rotation import matrix_from_quaternion

_MM = 1000.0
_DISPARITY_MM = 655_350.0  # depth in millimetres is this over the stored value; 0 is none
_UNIT_LENGTH = 1e-2
_PAIRS = "custom_splits/pairwise_pixel_correspondences"


class Navi(DatasetLayout):
    """Version 1.0 writes underscores in folders' names, 1.5 hyphens: both are read."""

    name = "navi"
    title = "NAVI"
    domain = "photo"
    bases = ("*/multiview*", "*/video*", "*/wild_set", "multiview*", "video*", "wild_set", ".")
    signs = ("annotations.json", "images/*.jpg", "depth/*.png")

    def files(self, scene: SceneFiles) -> list[Path]:
        names = [self._name(row, scene.path) for row in self._rows(scene.path)]
        maps = [scene.path / kind / f"{Path(name).stem}.png" for kind in ("depth", "masks") for name in names]
        pictures = [inside(scene.path / "images", name, scene.path / "annotations.json") for name in names]
        return [scene.path / "annotations.json", *pictures, *(path for path in maps if path.is_file())]

    def read(self, scene: SceneFiles) -> MultiViewScene:
        views = tuple(navi_view(scene.path, self._name(row, scene.path), row) for row in self._rows(scene.path))
        return MultiViewScene(scene.name, views, is_still=True)

    @staticmethod
    def _rows(folder: Path) -> list[Fields]:
        path = folder / "annotations.json"
        return objects(read_json(path), place_of(path))

    @staticmethod
    def _name(row: Fields, folder: Path) -> str:
        name = row.name("filename")
        inside(folder / "images", name, folder / "annotations.json")
        return name


def navi_view(folder: Path, name: str, row: Fields) -> SceneView:
    """A photograph, turned upright as its EXIF says; its pose in metres of the object's scan, and z-depth."""
    lens = Fields(row["camera"], row.at("camera"))
    wxyz, centre = lens.numbers("q", (4,)), lens.numbers("t", (3,))
    if abs(float(wxyz.norm()) - 1) > _UNIT_LENGTH:
        raise lens.at("q").error(f"expected a quaternion of length 1, got {float(wxyz.norm()):.4g}")
    height, width = (side_px(side, row.at("image_size")) for side in row.numbers("image_size", (2,)).tolist())
    focal = lens.positive("focal_length")
    w2c = poses_of(matrix_from_quaternion(wxyz)[None], centre[None] / _MM)
    K = torch.tensor([[focal, 0, width / 2], [0, focal, height / 2], [0, 0, 1]], dtype=torch.float64)
    camera = Camera(c2w_from_w2c(w2c, lens.place)[0], K, (height, width), scale_known=True)
    depth, mask = (folder / kind / f"{Path(name).stem}.png" for kind in ("depth", "masks"))
    return photograph(
        folder / "images" / name, camera,
        partial(_depth, depth, camera.size) if depth.is_file() else None,
        partial(_mask, mask, camera.size) if mask.is_file() else None,
    )  # fmt: skip


def _depth(path: Path, size: tuple[int, int], _frames: int) -> Float[Tensor, "1 H W"]:
    stored = same_size([read_map(path, np.uint16)], size, path).float()
    return torch.where(stored > 0, _DISPARITY_MM / _MM / stored.clamp_min(1), 0.0)


def _mask(path: Path, size: tuple[int, int], _frames: int) -> Bool[Tensor, "1 H W"]:
    return same_size([read_map(path)], size, path) > 0


class NaviPair(NamedTuple):
    """Two photographs, by their paths from the dataset's root, and how far their cameras are turned apart (degrees)."""

    first: str
    second: str
    angle_deg: float


def navi_pairs(root: Path, split: Literal["multiview", "wild_set"]) -> list[NaviPair]:
    """The pairs of the correspondence protocol. Raises ValueError for a row that is none, or names no file."""
    path = root / _PAIRS / f"pairs-{split}.txt"
    pairs = []
    for number, line in enumerate(lines_of(read_text(path)), 1):
        tokens, place = line.split(), place_of(path).line(number)
        if not tokens:
            continue
        if len(tokens) != 3:
            raise place.error(f"expected two pictures and an angle, got {len(tokens)} words")
        missing = next((name for name in tokens[:2] if not inside(root, name, path).is_file()), None)
        if missing is not None:
            raise place.error(f"names {missing}, which is not in {root}")
        pairs.append(NaviPair(tokens[0], tokens[1], text_number(tokens[2], place)))
    return pairs
