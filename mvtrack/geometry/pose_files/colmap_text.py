"""COLMAP's text model: cameras.txt and images.txt, two lines an image, the second one of points (often empty)."""

import re
from pathlib import Path

from mvtrack.geometry.pose_files import colmap
from mvtrack.geometry.pose_files.colmap import ColmapCamera, ColmapImage, make_camera, make_image
from mvtrack.geometry.pose_files.options import ReadOptions
from mvtrack.geometry.pose_files.parse import (
    MAX_FRAMES,
    Place,
    check_name,
    is_number,
    lines_of,
    place_of,
    read_text,
    show,
    text_number,
)
from mvtrack.geometry.pose_files.sequence import CameraSequence

OPTIONS = colmap.OPTIONS
CAMERAS, IMAGES, POINTS = "cameras.txt", "images.txt", "points3D.txt"
_MAX_IMAGES_BYTES = 64 << 20  # a second or two; larger models are better kept in COLMAP's binary form
_INTEGER = re.compile(r"[0-9]{1,10}", re.ASCII)


def read(path: Path, options: ReadOptions) -> CameraSequence:
    """A model's folder, or one of its files."""
    folder = colmap.model_folder(path)
    cameras = _cameras(read_text(folder / CAMERAS), place_of(folder / CAMERAS))
    images = _images(read_text(folder / IMAGES, _MAX_IMAGES_BYTES), place_of(folder / IMAGES))
    return colmap.assemble(cameras, images, options, folder, "text")


def _cameras(text: str, place: Place) -> dict[int, ColmapCamera]:
    cameras: dict[int, ColmapCamera] = {}
    for index, line in enumerate(lines_of(text), 1):
        tokens = line.split()
        if not tokens or tokens[0].startswith("#"):
            continue
        at = place.line(index)
        if len(tokens) < 5:
            raise at.error(f"has {len(tokens)} columns, expected CAMERA_ID MODEL WIDTH HEIGHT PARAMS…")
        camera_id = _integer(tokens[0], at.field("CAMERA_ID"))
        if camera_id in cameras:
            raise at.error(f"camera {camera_id} is there twice")
        if len(cameras) >= MAX_FRAMES:
            raise at.error(f"expected at most {MAX_FRAMES} cameras")
        width, height = (
            _integer(token, at.field(what)) for token, what in zip(tokens[2:4], ("WIDTH", "HEIGHT"), strict=True)
        )
        parameters = [text_number(token, at.field("PARAMS")) for token in tokens[4:]]
        cameras[camera_id] = make_camera(tokens[1], width, height, parameters, at)
    return cameras


def _images(text: str, place: Place) -> list[ColmapImage]:
    images: list[ColmapImage] = []
    lines = iter(enumerate(lines_of(text), 1))
    for index, line in lines:
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        at = place.line(index)
        tokens = line.strip().split(None, 9)
        if len(tokens) != 10:
            raise at.error(f"has {len(tokens)} columns, expected IMAGE_ID QW QX QY QZ TX TY TZ CAMERA_ID NAME")
        if len(images) >= MAX_FRAMES:
            raise at.error(f"expected at most {MAX_FRAMES} images")
        _integer(tokens[0], at.field("IMAGE_ID"))
        check_name(tokens[9], at.field("NAME"))
        pose = [text_number(token, at) for token in tokens[1:8]]
        images.append(make_image(tokens[9], _integer(tokens[8], at.field("CAMERA_ID")), pose, at))
        _check_points(*next(lines, (index + 1, "")), place)
    return images


def _check_points(index: int, line: str, place: Place) -> None:
    """The line after an image: X Y POINT3D_ID and so on, or nothing. An image line in its place is an error."""
    tokens = line.split()
    if len(tokens) % 3 or not all(map(is_number, tokens[:3])):
        raise place.line(index).error(
            f"expected the image's points (X, Y, POINT3D_ID …; may be an empty line), got {show(line)}"
        )


def _integer(token: str, place: Place) -> int:
    if not _INTEGER.fullmatch(token):
        raise place.error(f"expected a whole number, got {show(token)}")
    return int(token)


def write(sequence: CameraSequence) -> dict[str, bytes]:
    """The folder's files, by name; without points. Times have no place in this format.

    Raises ValueError for names with white space, which COLMAP's own reader cuts, and as `colmap.disassemble`.
    """
    cameras, images = colmap.disassemble(sequence)
    odd = next(
        (image.name for image in images if len(image.name.split()) != 1 or image.name.strip() != image.name), None
    )
    if odd is not None:
        raise ValueError(f"COLMAP's text form cannot hold the name {show(odd)}, which has white space")
    camera_lines = ["# CAMERA_ID, MODEL, WIDTH, HEIGHT, PARAMS[]"]
    for camera_id, camera in cameras.items():
        height, width = camera.size
        camera_lines.append(f"{camera_id} {camera.model} {width} {height} {' '.join(map(repr, camera.parameters))}")
    image_lines = ["# IMAGE_ID, QW, QX, QY, QZ, TX, TY, TZ, CAMERA_ID, NAME", "# POINTS2D[] as (X, Y, POINT3D_ID)"]
    for number, image in enumerate(images, 1):
        image_lines += [f"{number} {' '.join(map(repr, image.pose))} {image.camera_id} {image.name}", ""]
    return {
        CAMERAS: "\n".join([*camera_lines, ""]).encode(),
        IMAGES: "\n".join([*image_lines, ""]).encode(),
        POINTS: b"# POINT3D_ID, X, Y, Z, R, G, B, ERROR, TRACK[] as (IMAGE_ID, POINT2D_IDX)\n",
    }
