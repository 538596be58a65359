"""Folders that other programs reconstruct from: COLMAP's (images, masks, sparse/0) and nerfstudio's (transforms.json).

Frames of source and result lie beside each other, their names told apart by `source_` and `result_`. A mask is white
where a picture may be trusted: all of the source, and of the result what the source shows at that moment.
"""

import json
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import UInt8

from mvtrack.geometry.camera import Camera
from mvtrack.geometry.pose_files.files import write_cameras
from mvtrack.geometry.pose_files.sequence import CameraSequence
from mvtrack.inference.scene4d.moments import VIEWS, Moment, Scene4D, thinned
from mvtrack.inference.scene4d.ply import ply_bytes

_SPARSE = 4000  # points of the first moment that go into a model


def write_colmap(scene: Scene4D, folder: Path) -> list[str]:
    """images/, masks/NAME.png (COLMAP leaves black out), sparse/0 with poses, lenses, points of the first moment."""
    cameras = _cameras(scene, _write_pictures(scene, folder, mask_suffix=".png"), prefix="")
    (folder / "sparse").mkdir()
    write_cameras(folder / "sparse" / "0", cameras, "colmap_binary")
    return [_still_note(scene)]


def write_nerfstudio(scene: Scene4D, folder: Path) -> list[str]:
    """images/, masks/, points.ply and transforms.json, with masks and a time in [0, 1] for every frame."""
    first = _write_pictures(scene, folder, mask_suffix="")
    (folder / "points.ply").write_bytes(ply_bytes(first.views[0], f"source, frame {first.number}"))
    cameras = replace(_cameras(scene, first, prefix="images/"), points=None, point_colors=None)
    path = write_cameras(folder / "transforms.json", cameras, "nerfstudio")
    document = json.loads(path.read_text())
    last = max(1, len(scene.numbers) - 1)
    for frame in document["frames"]:
        name = Path(frame["file_path"])
        frame["mask_path"] = f"masks/{name.name}"
        frame["time"] = scene.numbers.index(int(name.stem.split("_")[1])) / last
    document["ply_file_path"] = "points.ply"
    path.write_text(json.dumps(document, indent=1))
    return [_still_note(scene)]


def _still_note(scene: Scene4D) -> str:
    frame = scene.numbers[0]
    return f"points are those of frame {frame}: what moves is elsewhere in other frames, and no mask takes it out"


def _write_pictures(scene: Scene4D, folder: Path, mask_suffix: str) -> Moment:
    """Images and masks of all moments; returns the first moment."""
    for name in ("images", "masks"):
        (folder / name).mkdir()
    first = None
    for moment in scene.moments():
        first = first or moment
        pictures = scene.pictures(moment.number)
        for name, picture, surface in zip(VIEWS, pictures, moment.views, strict=True):
            file = f"{name}_{moment.number:05d}.png"
            _write_png(folder / "images" / file, picture.permute(1, 2, 0).numpy()[..., ::-1])  # OpenCV's are BGR
            size = tuple(picture.shape[-2:])
            mask = F.interpolate(surface.seen[None, None].float(), size, mode="nearest-exact")[0, 0]
            _write_png(folder / "masks" / f"{file}{mask_suffix}", (255 * mask).to(torch.uint8).numpy())
    return first


def _write_png(path: Path, picture: UInt8[np.ndarray, "H W *c"]) -> None:
    if not cv2.imwrite(str(path), picture):
        raise OSError(f"{path} could not be written")


def _cameras(scene: Scene4D, first: Moment, prefix: str) -> CameraSequence:
    """Of all pictures, in order of their names, with points of the first moment."""
    order = [(name, view) for view, name in sorted(enumerate(VIEWS), key=lambda each: each[1])]
    names = [f"{prefix}{name}_{number:05d}.png" for name, _ in order for number in scene.numbers]
    cameras = scene.camera
    c2w, K = (torch.cat([x[view] for _, view in order]).double() for x in (cameras.c2w, cameras.K))
    surface = thinned(first.views[0], _SPARSE)
    return CameraSequence(
        Camera(c2w, K, cameras.size, cameras.scale_known), tuple(names), points=surface.points[surface.used].double(),
        point_colors=surface.colors[surface.used],
    )  # fmt: skip
