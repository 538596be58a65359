"""RealEstate10K txt: a video's URL, then one frame a line with normalised intrinsics and a world-to-camera matrix.

Format: google.github.io/realestate10k/download.html. 19 columns: microseconds, fx/w, fy/h, cx/w, cy/h, 0, 0, and
[R | t] row by row. Normalised image coordinates run from the picture's top left corner (0, 0) to its bottom right
corner (1, 1): raster pixels, once multiplied by an image size that the file does not hold. The scale of a scene is
unknown.
"""

from pathlib import Path

import torch

from mvtrack.geometry.camera import Camera
from mvtrack.geometry.pose_files.geometry import c2w_from_w2c, pinhole_matrix, w2c_from_c2w
from mvtrack.geometry.pose_files.options import ReadOptions, image_size
from mvtrack.geometry.pose_files.parse import (
    Place,
    frame_count,
    is_number,
    lines_of,
    number,
    place_of,
    positive,
    read_text,
    show,
    text_number,
)
from mvtrack.geometry.pose_files.sequence import CameraSequence

OPTIONS = ("size", "metric")
COLUMNS = 19
_MICROSECONDS = 1e6
_HEADER = "# no video URL: written by mvtrack"


def looks_like(lines: list[str]) -> bool:
    """Given the first lines that are not empty: is one of the first two a row of 19 numbers?"""
    return any(len(line.split()) == COLUMNS and all(map(is_number, line.split())) for line in lines[:2])


def read(path: Path, options: ReadOptions) -> CameraSequence:
    """All frames, named by their time stamps. `size`: size (H, W) of the pictures that they are used on."""
    place = place_of(path)
    size = image_size(options, place)
    rows = _rows(read_text(path), place)
    times_us, fx, fy, cx, cy, _, _, *pose = torch.tensor(rows, dtype=torch.float64).unbind(-1)
    w2c = torch.eye(4, dtype=torch.float64).repeat(len(rows), 1, 1)
    w2c[:, :3] = torch.stack(pose, -1).view(-1, 3, 4)
    height, width = size
    return CameraSequence(
        Camera(
            c2w_from_w2c(w2c, place), pinhole_matrix(fx * width, fy * height, cx * width, cy * height), size,
            options.metric,
        ),
        tuple(str(int(row[0])) for row in rows),
        times_us / _MICROSECONDS,
        file_direction="w2c",
        convention="RealEstate10K txt: OpenCV axes, world-to-camera, intrinsics normalised by the image size",
    )  # fmt: skip


def _rows(text: str, place: Place) -> list[list[float]]:
    rows = []
    for number_of_line, line in enumerate(lines_of(text), 1):
        tokens = line.split()
        at = place.line(number_of_line)
        is_header = number_of_line == 1 and not (tokens and is_number(tokens[0]))
        if not tokens or is_header:
            continue
        frame_count(len(rows) + 1, place)
        if len(tokens) != COLUMNS:
            raise at.error(f"has {len(tokens)} columns, expected {COLUMNS}")
        row = [text_number(token, at) for token in tokens]
        if row[0] != int(row[0]) or row[0] < 0:
            raise at.error(f"the time stamp is {show(tokens[0])}, expected whole microseconds")
        positive(row[1], at.field("fx"))
        positive(row[2], at.field("fy"))
        for value in row[1:5]:
            number(value, at.field("intrinsics"), -1e3, 1e3)
        if row[5] or row[6]:
            raise at.error(f"columns 6 and 7 are {tokens[5]} and {tokens[6]}, expected 0 and 0")
        rows.append(row)
    frame_count(len(rows), place)
    return rows


def write(sequence: CameraSequence) -> bytes:
    """The file's bytes. Times are rounded to whole microseconds, as the format has them; names are left out.

    Raises ValueError without time stamps, or for skew or distortion, which the format cannot hold.
    """
    if sequence.timestamps_s is None:
        raise ValueError("RealEstate10K files need a time for every frame: set timestamps_s")
    if (sequence.timestamps_s < 0).any():
        raise ValueError("RealEstate10K files cannot hold times before 0")
    K = sequence.camera.K.double()
    if K[:, 0, 1].any():
        raise ValueError("RealEstate10K files cannot hold skew: K[0, 1] must be 0")
    if sequence.distortion is not None and not sequence.distortion.is_zero:
        raise ValueError("RealEstate10K files cannot hold lens distortion")
    height, width = sequence.camera.size
    zero = torch.zeros_like(K[:, 0, 0])
    lens = torch.stack(
        [K[:, 0, 0] / width, K[:, 1, 1] / height, K[:, 0, 2] / width, K[:, 1, 2] / height, zero, zero], -1
    )
    rows = torch.cat([lens, w2c_from_c2w(sequence.camera.c2w.double())[:, :3].flatten(1)], -1).tolist()
    times_us = (sequence.timestamps_s.double() * _MICROSECONDS).round().tolist()
    lines = [f"{int(time)} {' '.join(map(repr, row))}" for time, row in zip(times_us, rows, strict=True)]
    return "\n".join([_HEADER, *lines, ""]).encode()
