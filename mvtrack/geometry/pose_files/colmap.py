"""What COLMAP's text and binary models share: camera models, and images that become a camera sequence and back.

Format: colmap.github.io/format.html. A model is a folder with `cameras`, `images` and `points3D`. Poses are
world-to-camera, quaternion (w, x, y, z) and translation, OpenCV axes; the centre of the first pixel is at (0.5, 0.5):
raster. The scale is unknown. Frames are in natural order of the images' names: COLMAP numbers images as it likes.
"""

import os
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from mvtrack.geometry.camera import Camera
from mvtrack.geometry.pose_files.distortion import Distortion
from mvtrack.geometry.pose_files.geometry import pinhole_matrix, quaternion_from_rotation, rotation_from_quaternion
from mvtrack.geometry.pose_files.options import ReadOptions
from mvtrack.geometry.pose_files.parse import (
    MAX_FRAMES,
    Place,
    natural_order,
    number,
    place_of,
    positive,
    show,
    side_px,
)
from mvtrack.geometry.pose_files.sequence import CameraSequence
from mvtrack.geometry.pose_files.tum import check_quaternion

OPTIONS = ("camera", "metric")

# Number and parameters of the models with Brown's distortion. The other models are fisheyes and divisions.
MODELS = {
    "SIMPLE_PINHOLE": (0, ("f", "cx", "cy")),
    "PINHOLE": (1, ("fx", "fy", "cx", "cy")),
    "SIMPLE_RADIAL": (2, ("f", "cx", "cy", "k1")),
    "RADIAL": (3, ("f", "cx", "cy", "k1", "k2")),
    "OPENCV": (4, ("fx", "fy", "cx", "cy", "k1", "k2", "p1", "p2")),
    "FULL_OPENCV": (6, ("fx", "fy", "cx", "cy", "k1", "k2", "p1", "p2", "k3", "k4", "k5", "k6")),
}
MODEL_NUMBERS = {model_id: model for model, (model_id, _) in MODELS.items()}
_LENS = ("k1", "k2", "p1", "p2", "k3")


@dataclass(frozen=True)
class ColmapCamera:
    """One line of cameras.txt. parameters: in the order of `MODELS`."""

    model: str
    size: tuple[int, int]
    parameters: tuple[float, ...]


@dataclass(frozen=True)
class ColmapImage:
    """One image: its name, camera, and world-to-camera pose (w, x, y, z, tx, ty, tz)."""

    name: str
    camera_id: int
    pose: tuple[float, ...]


def model_folder(path: Path) -> Path:
    """The folder, given itself or one of its files."""
    return path if os.path.isdir(path) else path.parent


def make_camera(model: str, width: object, height: object, parameters: list[float], place: Place) -> ColmapCamera:
    """Checked values of one camera; ValueError for models that are not perspective with Brown's distortion."""
    if model not in MODELS:
        raise place.error(f"the camera model {show(model)} is not supported, expected one of {', '.join(MODELS)}")
    names = MODELS[model][1]
    if len(parameters) != len(names):
        raise place.error(f"{model} has {len(parameters)} parameters, expected {len(names)}: {', '.join(names)}")
    for name, value in zip(names, parameters, strict=True):
        number(value, place.field(name))
        if name.startswith("f"):
            positive(value, place.field(name))
        if name in ("k4", "k5", "k6") and value != 0:
            raise place.field(name).error(f"is {value:g}: a rational distortion is not supported, expected 0")
    size = side_px(height, place.field("height")), side_px(width, place.field("width"))
    return ColmapCamera(model, size, tuple(parameters))


def make_image(name: str, camera_id: int, pose: list[float], place: Place) -> ColmapImage:
    """Checked values of one image."""
    for value in pose:
        number(value, place)
    check_quaternion(pose[:4], place)
    return ColmapImage(name, camera_id, tuple(pose))


def assemble(
    cameras: dict[int, ColmapCamera], images: list[ColmapImage], options: ReadOptions, folder: Path, kind: str
) -> CameraSequence:
    """Images in order of their names. `camera`: the number of the camera whose images are wanted."""
    place = place_of(folder)
    images = _of_camera(images, options.camera, place)
    images = [images[i] for i in natural_order([image.name for image in images])]
    for before, image in zip(images, images[1:], strict=False):
        if before.name == image.name:
            raise place.error(f"has two images named {show(image.name)}")
    for image in images:
        if image.camera_id not in cameras:
            raise place.error(f"image {show(image.name)} has camera {image.camera_id}, which is not in cameras")
    used = {image.camera_id: cameras[image.camera_id] for image in images}
    sizes = {camera.size for camera in used.values()}
    if len(sizes) > 1:
        shown = ", ".join(f"{i}: {c.size[1]}x{c.size[0]}" for i, c in list(used.items())[:8])
        raise place.error(f"has cameras of different image sizes ({shown}): the option camera is needed, a number")
    lens = torch.tensor([_lens(cameras[image.camera_id]) for image in images], dtype=torch.float64)
    distortion = Distortion(lens[:, 4:])
    return CameraSequence(
        Camera(
            _c2w([image.pose for image in images]), pinhole_matrix(*lens[:, :4].unbind(-1)), sizes.pop(), options.metric
        ),
        tuple(image.name for image in images),
        distortion=None if distortion.is_zero else distortion,
        convention=f"COLMAP {kind} model: OpenCV axes, world-to-camera, raster pixels",
        file_direction="w2c",
    )


def _of_camera(images: list[ColmapImage], camera: str | int | None, place: Place) -> list[ColmapImage]:
    if not 1 <= len(images) <= MAX_FRAMES:
        raise place.error(f"has {len(images)} images with a pose, expected 1 to {MAX_FRAMES}")
    if camera is None:
        return images
    chosen = [image for image in images if str(image.camera_id) == str(camera)]
    if not chosen:
        ids = sorted({image.camera_id for image in images})
        raise place.error(f"has no images of camera {show(camera)}; it has cameras {', '.join(map(str, ids[:12]))}")
    return chosen


def _lens(camera: ColmapCamera) -> list[float]:
    """fx, fy, cx, cy, k1, k2, p1, p2, k3."""
    values = dict(zip(MODELS[camera.model][1], camera.parameters, strict=True))
    focal = [values.get(key, values.get("f")) for key in ("fx", "fy")]
    return [*focal, values["cx"], values["cy"], *(values.get(key, 0.0) for key in _LENS)]


def _c2w(poses: list[tuple[float, ...]]) -> Float[Tensor, "T 4 4"]:
    wxyz_t = torch.tensor(poses, dtype=torch.float64)
    rotation = rotation_from_quaternion(wxyz_t[:, :4])
    c2w = torch.eye(4, dtype=torch.float64).repeat(len(poses), 1, 1)
    c2w[:, :3, :3] = rotation.mT
    c2w[:, :3, 3:] = -(rotation.mT @ wxyz_t[:, 4:, None])
    return c2w


def disassemble(sequence: CameraSequence) -> tuple[dict[int, ColmapCamera], list[ColmapImage]]:
    """Cameras (one for each distinct lens) and images, numbered from 1. Inverse of `assemble`.

    Raises ValueError for skew, which COLMAP's models do not have, and for names that are read in another order.
    """
    camera = sequence.camera
    K = camera.K.double()
    if K[:, 0, 1].any():
        raise ValueError("COLMAP cameras cannot hold skew: K[0, 1] must be 0")
    if natural_order(sequence.names) != list(range(sequence.num_frames)):
        raise ValueError("COLMAP models are read in order of the names, and these do not ascend: rename the frames")
    if len(set(sequence.names)) != sequence.num_frames:
        raise ValueError("COLMAP models need frame names that differ")
    lens = torch.stack([K[:, 0, 0], K[:, 1, 1], K[:, 0, 2], K[:, 1, 2]], -1)
    if sequence.distortion is not None:
        lens = torch.cat([lens, sequence.distortion.per_frame(sequence.num_frames).double()], -1)
    numbers: dict[tuple[float, ...], int] = {}
    wxyz = quaternion_from_rotation(camera.c2w[:, :3, :3].double().mT)
    offset = -(rotation_from_quaternion(wxyz) @ camera.c2w[:, :3, 3:].double())[..., 0]
    poses = torch.cat([wxyz, offset], -1).tolist()
    images = [
        ColmapImage(name, numbers.setdefault(tuple(row), len(numbers) + 1), tuple(pose))
        for name, row, pose in zip(sequence.names, lens.tolist(), poses, strict=True)
    ]
    return {number: _camera(row, camera.size) for row, number in numbers.items()}, images


def _camera(row: tuple[float, ...], size: tuple[int, int]) -> ColmapCamera:
    if not any(row[4:]):
        return ColmapCamera("PINHOLE", size, row[:4])
    if row[8] == 0:
        return ColmapCamera("OPENCV", size, row[:8])
    return ColmapCamera("FULL_OPENCV", size, (*row, 0.0, 0.0, 0.0))
