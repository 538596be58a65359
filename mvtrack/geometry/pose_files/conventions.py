"""The same file read under another convention: what to try when cameras do not fit their video."""

from dataclasses import replace

from mvtrack.geometry.pose_files.geometry import AXES, axes_from_opencv, axes_to_opencv, c2w_from_w2c, w2c_from_c2w
from mvtrack.geometry.pose_files.options import DIRECTIONS
from mvtrack.geometry.pose_files.parse import Place, show
from mvtrack.geometry.pose_files.sequence import CameraSequence


def alternatives(sequence: CameraSequence) -> list[tuple[str, str]]:
    """(axes, direction) pairs that the file's numbers could have; the one they were read with comes first.

    A file that stores rotation and position apart has no other direction.
    """
    own = (sequence.file_axes, sequence.file_direction)
    directions = DIRECTIONS if own[1] in DIRECTIONS else own[1:]
    pairs = [(axes, direction) for axes in AXES for direction in directions]
    return [own, *(pair for pair in pairs if pair != own)]


def reinterpret(sequence: CameraSequence, axes: str, direction: str) -> CameraSequence:
    """The cameras that the file would have given, had its numbers been read as `axes` and `direction`.

    Intrinsics, times and unit stay. Raises ValueError for names that do not exist.
    """
    if (axes, direction) not in alternatives(sequence):
        known = ", ".join(" ".join(pair) for pair in alternatives(sequence))
        raise ValueError(f"{show(f'{axes} {direction}')} is no convention of these cameras; known: {known}")
    numbers = axes_from_opencv(sequence.camera.c2w, sequence.file_axes)
    if sequence.file_direction == "w2c":
        numbers = w2c_from_c2w(numbers)
    if direction == "w2c":
        numbers = c2w_from_w2c(numbers, Place("reinterpreted cameras"))
    camera = replace(sequence.camera, c2w=axes_to_opencv(numbers, axes))
    return replace(sequence, camera=camera, file_axes=axes, file_direction=direction)
