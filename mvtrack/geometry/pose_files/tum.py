"""TUM trajectory txt: time and camera-to-world pose as a quaternion, one frame a line; no intrinsics.

Format: cvg.cit.tum.de/data/datasets/rgbd-dataset/file_formats. `timestamp tx ty tz qx qy qz qw`, seconds, OpenCV
camera axes; lines that start with # are comments. TUM's own files are in metres, but monocular SLAM programs write
the same format at any scale, so the scale is unknown unless the caller says `metric`.
"""

import math
from pathlib import Path

import torch

from mvtrack.geometry.camera import Camera
from mvtrack.geometry.pose_files.geometry import quaternion_from_rotation, rotation_from_quaternion
from mvtrack.geometry.pose_files.options import ReadOptions, image_size, lens_matrix
from mvtrack.geometry.pose_files.parse import (
    Place,
    check_name,
    frame_count,
    is_number,
    lines_of,
    place_of,
    read_text,
    text_number,
)
from mvtrack.geometry.pose_files.sequence import CameraSequence

OPTIONS = ("size", "fov", "focal_px", "focal_mm", "sensor_mm", "metric")
COLUMNS = 8
QUATERNION_TOLERANCE = 1e-2  # of the norm: passes a quaternion that was written with three digits


def looks_like(lines: list[str]) -> bool:
    """Given the first lines that are neither empty nor a comment: is the first one a row of 8 numbers?"""
    return bool(lines) and len(lines[0].split()) == COLUMNS and all(map(is_number, lines[0].split()))


def read(path: Path, options: ReadOptions) -> CameraSequence:
    """All frames of the file, named by their time stamps as written."""
    place = place_of(path)
    size = image_size(options, place)
    rows, names = _rows(read_text(path), place)
    columns = torch.tensor(rows, dtype=torch.float64)
    c2w = torch.eye(4, dtype=torch.float64).repeat(len(rows), 1, 1)
    c2w[:, :3, 3] = columns[:, 1:4]
    c2w[:, :3, :3] = rotation_from_quaternion(columns[:, [7, 4, 5, 6]])
    K = lens_matrix(options, size, place).expand(len(rows), 3, 3)
    return CameraSequence(
        Camera(c2w, K, size, options.metric),
        tuple(names),
        columns[:, 0].clone(),
        convention="TUM trajectory: OpenCV axes, camera-to-world, no intrinsics",
    )


def _rows(text: str, place: Place) -> tuple[list[list[float]], list[str]]:
    rows, names = [], []
    for number_of_line, line in enumerate(lines_of(text), 1):
        tokens = line.split()
        if not tokens or tokens[0].startswith("#"):
            continue
        at = place.line(number_of_line)
        frame_count(len(rows) + 1, place)
        if len(tokens) != COLUMNS:
            raise at.error(f"has {len(tokens)} columns, expected {COLUMNS} (timestamp tx ty tz qx qy qz qw)")
        row = [text_number(token, at) for token in tokens]
        check_quaternion(row[4:], at)
        check_name(tokens[0], at)
        rows.append(row)
        names.append(tokens[0])
    frame_count(len(rows), place)
    return rows, names


def check_quaternion(quaternion: list[float], place: Place) -> None:
    """Raises ValueError unless the norm is 1, up to rounding."""
    norm = math.hypot(*quaternion)
    if abs(norm - 1) > QUATERNION_TOLERANCE:
        raise place.error(f"the quaternion's norm is {norm:.6g}, expected 1")


def write(sequence: CameraSequence) -> bytes:
    """The file's bytes. Intrinsics, lens and names have no place in this format.

    Raises ValueError without time stamps.
    """
    if sequence.timestamps_s is None:
        raise ValueError("TUM files need a time for every frame: set timestamps_s")
    c2w = sequence.camera.c2w.double()
    wxyz = quaternion_from_rotation(c2w[:, :3, :3])
    rows = torch.cat([sequence.timestamps_s.double()[:, None], c2w[:, :3, 3], wxyz[:, [1, 2, 3, 0]]], -1)
    lines = [" ".join(map(repr, row)) for row in rows.tolist()]
    return "\n".join(["# timestamp tx ty tz qx qy qz qw", *lines, ""]).encode()
