"""The records of COLMAP's files, text and binary, checked as far as their form goes."""

import re
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from mvtrack.geometry.pose_files.parse import (
    MAX_NAME,
    Place,
    check_name,
    file_size,
    frame_count,
    is_number,
    lines_of,
    number,
    place_of,
    read_text,
    show,
    side_px,
    text_number,
)

TEXT_FILES = ("cameras.txt", "images.txt", "points3D.txt")
BINARY_FILES = ("cameras.bin", "images.bin", "points3D.bin")
MAX_POINTS = 1_000_000  # of the scene, that are kept

# Number and parameters of every camera model.
MODELS = {
    "SIMPLE_PINHOLE": (0, "f cx cy"),
    "PINHOLE": (1, "fx fy cx cy"),
    "SIMPLE_RADIAL": (2, "f cx cy k"),
    "RADIAL": (3, "f cx cy k1 k2"),
    "OPENCV": (4, "fx fy cx cy k1 k2 p1 p2"),
    "OPENCV_FISHEYE": (5, "fx fy cx cy k1 k2 k3 k4"),
    "FULL_OPENCV": (6, "fx fy cx cy k1 k2 p1 p2 k3 k4 k5 k6"),
    "FOV": (7, "fx fy cx cy omega"),
    "SIMPLE_RADIAL_FISHEYE": (8, "f cx cy k"),
    "RADIAL_FISHEYE": (9, "f cx cy k1 k2"),
    "THIN_PRISM_FISHEYE": (10, "fx fy cx cy k1 k2 p1 p2 k3 k4 sx1 sy1"),
    "RAD_TAN_THIN_PRISM_FISHEYE": (11, "fx fy cx cy k0 k1 k2 k3 k4 k5 p0 p1 s0 s1 s2 s3"),
    "SIMPLE_DIVISION": (12, "f cx cy k"),
    "DIVISION": (13, "fx fy cx cy k"),
    "SIMPLE_FISHEYE": (14, "f cx cy"),
    "FISHEYE": (15, "fx fy cx cy"),
    "EUCM": (16, "fx fy cx cy alpha beta"),
    "EQUIRECTANGULAR": (17, "w h"),
}
_MODEL_NAMES = {number: name for name, (number, _) in MODELS.items()}
_MAX_CAMERAS_BYTES = 16 << 20
_MAX_TEXT_BYTES = 64 << 20  # a second or two; larger models are better kept in COLMAP's binary form
_MAX_BINARY_BYTES = 1 << 40  # nearly all of it is image points, which are stepped over
_INTEGER = re.compile(r"[0-9]{1,10}", re.ASCII)
_COUNT, _CAMERA, _IMAGE = struct.Struct("<Q"), struct.Struct("<IiQQ"), struct.Struct("<I7dI")
_POINT = struct.Struct("<Q3d3BdQ")
_IMAGE_POINT_BYTES, _TRACK_BYTES = 24, 8


@dataclass(frozen=True)
class ColmapCamera:
    """One camera. parameters: by name, in the order of `MODELS`."""

    model: str
    size: tuple[int, int]
    parameters: dict[str, float]
    place: Place


@dataclass(frozen=True)
class ColmapImage:
    """One image: its name, camera, and world-to-camera pose (w, x, y, z, tx, ty, tz)."""

    name: str
    camera_id: int
    pose: list[float]
    place: Place


@dataclass(frozen=True)
class ColmapPoints:
    """Of the scene, with their colours. note: where there are too many to be kept."""

    xyz: Float[Tensor, "N 3"]
    rgb: UInt8[Tensor, "N 3"]
    note: str = ""


Model = tuple[dict[int, ColmapCamera], list[ColmapImage], ColmapPoints | None]


def _points(xyz: list[list[float]], rgb: list[list[int]], count: int) -> ColmapPoints:
    note = f"its first {MAX_POINTS} of {count} points are kept" if count > MAX_POINTS else ""
    place = torch.tensor(xyz, dtype=torch.float64).view(-1, 3)
    return ColmapPoints(place, torch.tensor(rgb, dtype=torch.uint8).view(-1, 3), note)


def _make_camera(model: str, width: int, height: int, values: list[float], place: Place) -> ColmapCamera:
    names = MODELS[model][1].split()
    if len(values) != len(names):
        raise place.error(f"{model} has {len(values)} parameters, expected {len(names)}: {', '.join(names)}")
    parameters = {name: number(value, place.field(name)) for name, value in zip(names, values, strict=True)}
    return ColmapCamera(
        model, (side_px(height, place.field("height")), side_px(width, place.field("width"))), parameters, place
    )


def read_text_model(folder: Path) -> Model:
    """Cameras by number, images, and points where the folder has them."""
    files = [folder / name for name in TEXT_FILES]
    cameras = _text_cameras(read_text(files[0], _MAX_CAMERAS_BYTES), place_of(files[0]))
    images = _text_images(read_text(files[1], _MAX_TEXT_BYTES), place_of(files[1]))
    return cameras, images, _text_points(files[2]) if files[2].exists() else None


def _text_cameras(text: str, place: Place) -> dict[int, ColmapCamera]:
    cameras: dict[int, ColmapCamera] = {}
    for at, tokens in _rows(text, place):
        if len(tokens) < 5:
            raise at.error(f"has {len(tokens)} columns, expected CAMERA_ID MODEL WIDTH HEIGHT PARAMS…")
        camera_id = _integer(tokens[0], at.field("CAMERA_ID"))
        if camera_id in cameras:
            raise at.error(f"camera {camera_id} is there twice")
        frame_count(len(cameras) + 1, place)
        if tokens[1] not in MODELS:
            raise at.error(f"the camera model {show(tokens[1])} is not supported, expected one of {', '.join(MODELS)}")
        width, height = (_integer(token, at.field("size")) for token in tokens[2:4])
        values = [text_number(token, at.field("PARAMS")) for token in tokens[4:]]
        cameras[camera_id] = _make_camera(tokens[1], width, height, values, at)
    return cameras


def _text_images(text: str, place: Place) -> list[ColmapImage]:
    """Two lines an image, the second one of points (often empty)."""
    images: list[ColmapImage] = []
    lines = iter(enumerate(lines_of(text), 1))
    for index, line in lines:
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        at, tokens = place.line(index), line.strip().split(None, 9)
        if len(tokens) != 10:
            raise at.error(f"has {len(tokens)} columns, expected IMAGE_ID QW QX QY QZ TX TY TZ CAMERA_ID NAME")
        frame_count(len(images) + 1, place)
        _integer(tokens[0], at.field("IMAGE_ID"))
        check_name(tokens[9], at.field("NAME"))
        pose = [text_number(token, at) for token in tokens[1:8]]
        images.append(ColmapImage(tokens[9], _integer(tokens[8], at.field("CAMERA_ID")), pose, at))
        index, line = next(lines, (index + 1, ""))
        points = line.split()
        if len(points) % 3 or not all(map(is_number, points[:3])):  # an image line in its place is an error
            raise place.line(index).error(
                f"expected the image's points (X, Y, POINT3D_ID …; may be an empty line), got {show(line)}"
            )
    return images


def _text_points(path: Path) -> ColmapPoints:
    xyz, rgb = [], []
    rows = _rows(read_text(path, _MAX_TEXT_BYTES), place_of(path))
    for at, tokens in rows[:MAX_POINTS]:
        if len(tokens) < 8:
            raise at.error(f"has {len(tokens)} columns, expected POINT3D_ID X Y Z R G B ERROR TRACK…")
        xyz.append([text_number(token, at) for token in tokens[1:4]])
        rgb.append([int(number(_integer(token, at), at, 0, 255)) for token in tokens[4:7]])
    return _points(xyz, rgb, len(rows))


def _rows(text: str, place: Place) -> list[tuple[Place, list[str]]]:
    rows = [(place.line(index), line.split()) for index, line in enumerate(lines_of(text), 1)]
    return [(at, tokens) for at, tokens in rows if tokens and not tokens[0].startswith("#")]


def _integer(token: str, place: Place) -> int:
    if not _INTEGER.fullmatch(token):
        raise place.error(f"expected a whole number, got {show(token)}")
    return int(token)


class _Records:
    """Reads structs from a file; what is missing is an error that says where."""

    def __init__(self, file: BinaryIO, size: int, place: Place):
        self.file, self.size, self.place = file, size, place

    @property
    def left(self) -> int:
        return self.size - self.file.tell()

    def unpack(self, form: struct.Struct) -> tuple:
        content = self.file.read(form.size)
        if len(content) != form.size:
            raise self.place.error(f"ends early, after {self.size} bytes: expected {form.size - len(content)} more")
        return form.unpack(content)

    def count(self, smallest: int, what: str) -> int:
        """How many entries follow, each of at least `smallest` bytes."""
        (count,) = self.unpack(_COUNT)
        if count * smallest > self.left:
            raise self.place.error(f"says it has {count} {what}, expected at most {self.left // smallest} in its bytes")
        return count

    def name(self) -> str:
        start = self.file.tell()
        content = self.file.read(4 * MAX_NAME + 1)
        end = content.find(b"\0")
        if end < 0:
            raise self.place.error(f"the name at byte {start} does not end")
        self.file.seek(start + end + 1)
        try:
            text = content[:end].decode("utf-8")
        except UnicodeDecodeError:
            raise self.place.error(f"the name at byte {start} is not UTF-8 text") from None
        check_name(text, self.place.field("name"))
        return text

    def skip(self, count: int, width: int) -> None:
        if count * width > self.left:
            raise self.place.error(
                f"says that {count} points follow, but only {self.left} bytes do: the file ends early"
            )
        self.file.seek(count * width, 1)

    def end(self) -> None:
        if self.left:
            raise self.place.error(f"has {self.left} bytes after its last entry, expected none")


def read_binary(folder: Path) -> Model:
    """As `read_text_model`; little-endian."""
    files = [folder / name for name in BINARY_FILES]
    cameras = _records(files[0], _MAX_CAMERAS_BYTES, _binary_cameras)
    images = _records(files[1], _MAX_BINARY_BYTES, _binary_images)
    return cameras, images, _records(files[2], _MAX_BINARY_BYTES, _binary_points) if files[2].exists() else None


def _records(path: Path, limit: int, parse):
    place, size = place_of(path), file_size(path, limit)
    try:
        with path.open("rb") as file:
            return parse(_Records(file, size, place))
    except OSError as error:
        raise place.error(f"cannot be read: {error.strerror or error}") from None


def _binary_cameras(records: _Records) -> dict[int, ColmapCamera]:
    cameras: dict[int, ColmapCamera] = {}
    for index in range(_frames(records, _CAMERA.size, "cameras")):
        at = records.place.field("cameras").item(index)
        camera_id, model_id, width, height = records.unpack(_CAMERA)
        if model_id not in _MODEL_NAMES:
            raise at.error(f"camera model number {model_id} is not supported, expected one of {_MODEL_NAMES}")
        model = _MODEL_NAMES[model_id]
        values = records.unpack(struct.Struct(f"<{len(MODELS[model][1].split())}d"))
        if camera_id in cameras:
            raise at.error(f"camera {camera_id} is there twice")
        cameras[camera_id] = _make_camera(model, width, height, list(values), at)
    records.end()
    return cameras


def _frames(records: _Records, smallest: int, what: str) -> int:
    count = records.count(smallest, what)
    return frame_count(count, records.place) if count else 0


def _binary_images(records: _Records) -> list[ColmapImage]:
    images = []
    for index in range(_frames(records, _IMAGE.size + 2 + _COUNT.size, "images")):
        at = records.place.field("images").item(index)
        _, *pose, camera_id = records.unpack(_IMAGE)
        images.append(ColmapImage(records.name(), camera_id, [number(value, at) for value in pose], at))
        records.skip(*records.unpack(_COUNT), _IMAGE_POINT_BYTES)
    records.end()
    return images


def _binary_points(records: _Records) -> ColmapPoints:
    xyz, rgb = [], []
    count = records.count(_POINT.size, "points")
    for index in range(min(count, MAX_POINTS)):
        _, x, y, z, *color, _, track = records.unpack(_POINT)
        xyz.append([number(value, records.place.item(index)) for value in (x, y, z)])
        rgb.append(color)
        records.skip(track, _TRACK_BYTES)
    return _points(xyz, rgb, count)
