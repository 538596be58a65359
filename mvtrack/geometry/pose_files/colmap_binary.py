"""COLMAP's binary model: cameras.bin and images.bin, little-endian. Points are stepped over, never read."""

import struct
from pathlib import Path
from typing import BinaryIO

from mvtrack.geometry.pose_files import colmap
from mvtrack.geometry.pose_files.colmap import MODEL_NUMBERS, MODELS, ColmapCamera, ColmapImage, make_camera, make_image
from mvtrack.geometry.pose_files.options import ReadOptions
from mvtrack.geometry.pose_files.parse import MAX_FRAMES, MAX_NAME, Place, check_name, file_size, place_of
from mvtrack.geometry.pose_files.sequence import CameraSequence

OPTIONS = colmap.OPTIONS
CAMERAS, IMAGES, POINTS = "cameras.bin", "images.bin", "points3D.bin"
_MAX_CAMERAS_BYTES = 16 << 20
_MAX_IMAGES_BYTES = 1 << 40  # nearly all of it is points, which are not read
_COUNT, _CAMERA, _IMAGE, _POINTS = (
    struct.Struct("<Q"),
    struct.Struct("<IiQQ"),
    struct.Struct("<I7dI"),
    struct.Struct("<Q"),
)
_POINT_BYTES = 24


class _Reader:
    """Reads structs from a file; what is missing is an error that says where."""

    def __init__(self, file: BinaryIO, size: int, place: Place):
        self.file, self.size, self.place = file, size, place

    def unpack(self, form: struct.Struct) -> tuple:
        content = self.file.read(form.size)
        if len(content) != form.size:
            raise self.place.error(f"ends early, after {self.size} bytes: expected {form.size - len(content)} more")
        return form.unpack(content)

    def count(self, smallest: int, what: str) -> int:
        """How many entries follow, each of at least `smallest` bytes."""
        (count,) = self.unpack(_COUNT)
        left = self.size - self.file.tell()
        if count > MAX_FRAMES or count * smallest > left:
            raise self.place.error(
                f"says it has {count} {what}, expected at most {MAX_FRAMES}, and {left} bytes follow"
            )
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
        left = self.size - self.file.tell()
        if count * width > left:
            raise self.place.error(f"says that {count} points follow, but only {left} bytes do: the file ends early")
        self.file.seek(count * width, 1)

    def end(self) -> None:
        left = self.size - self.file.tell()
        if left:
            raise self.place.error(f"has {left} bytes after its last entry, expected none")


def read(path: Path, options: ReadOptions) -> CameraSequence:
    """A model's folder, or one of its files."""
    folder = colmap.model_folder(path)
    cameras = _open(folder / CAMERAS, _MAX_CAMERAS_BYTES, _cameras)
    images = _open(folder / IMAGES, _MAX_IMAGES_BYTES, _images)
    return colmap.assemble(cameras, images, options, folder, "binary")


def _open(path: Path, limit: int, parse):
    place = place_of(path)
    size = file_size(path, limit)
    try:
        with path.open("rb") as file:
            return parse(_Reader(file, size, place))
    except OSError as error:
        raise place.error(f"cannot be read: {error.strerror or error}") from None


def _cameras(reader: _Reader) -> dict[int, ColmapCamera]:
    cameras: dict[int, ColmapCamera] = {}
    for index in range(reader.count(_CAMERA.size, "cameras")):
        at = reader.place.field("cameras").item(index)
        camera_id, model_id, width, height = reader.unpack(_CAMERA)
        if model_id not in MODEL_NUMBERS:
            raise at.error(f"camera model number {model_id} is not supported, expected one of {MODEL_NUMBERS}")
        model = MODEL_NUMBERS[model_id]
        parameters = reader.unpack(struct.Struct(f"<{len(MODELS[model][1])}d"))
        if camera_id in cameras:
            raise at.error(f"camera {camera_id} is there twice")
        cameras[camera_id] = make_camera(model, width, height, list(parameters), at)
    reader.end()
    return cameras


def _images(reader: _Reader) -> list[ColmapImage]:
    images = []
    for index in range(reader.count(_IMAGE.size + 2 + _POINTS.size, "images")):
        at = reader.place.field("images").item(index)
        _, *pose, camera_id = reader.unpack(_IMAGE)
        name = reader.name()
        images.append(make_image(name, camera_id, pose, at))
        (points,) = reader.unpack(_POINTS)
        reader.skip(points, _POINT_BYTES)
    reader.end()
    return images


def write(sequence: CameraSequence) -> dict[str, bytes]:
    """The folder's files, by name; without points. Times have no place in this format.

    Raises ValueError as `colmap.disassemble`.
    """
    cameras, images = colmap.disassemble(sequence)
    camera_bytes = [_COUNT.pack(len(cameras))]
    for camera_id, camera in cameras.items():
        height, width = camera.size
        camera_bytes.append(_CAMERA.pack(camera_id, MODELS[camera.model][0], width, height))
        camera_bytes.append(struct.pack(f"<{len(camera.parameters)}d", *camera.parameters))
    image_bytes = [_COUNT.pack(len(images))]
    for number, image in enumerate(images, 1):
        image_bytes.append(_IMAGE.pack(number, *image.pose, image.camera_id))
        image_bytes.append(image.name.encode() + b"\0" + _POINTS.pack(0))
    return {CAMERAS: b"".join(camera_bytes), IMAGES: b"".join(image_bytes), POINTS: _COUNT.pack(0)}
