"""The same file read under another convention: what to try when cameras do not fit their video."""

from dataclasses import replace
from typing import NamedTuple

from mvtrack.geometry.pose_files.geometry import AXES, axes_from_opencv, axes_to_opencv, c2w_from_w2c, w2c_from_c2w
from mvtrack.geometry.pose_files.options import DIRECTIONS, QUATERNIONS
from mvtrack.geometry.pose_files.parse import Place, show
from mvtrack.geometry.pose_files.sequence import CameraSequence
from mvtrack.geometry.rotation import matrix_from_quaternion, quaternion_from_matrix


class Convention(NamedTuple):
    """What a file's numbers are: camera axes, direction of the pose, and the order of its quaternions, if any."""

    axes: str
    direction: str
    quaternion: str = ""

    def __str__(self) -> str:
        return " ".join(word for word in self if word)


def alternatives(sequence: CameraSequence) -> list[Convention]:
    """Conventions that the file's numbers could have; the one they were read with comes first.

    A file that stores rotation and position apart has no other direction.
    """
    own = Convention(sequence.file_axes, sequence.file_direction, sequence.file_quaternion)
    directions = DIRECTIONS if own.direction in DIRECTIONS else (own.direction,)
    orders = [own.quaternion, *(order for order in QUATERNIONS if own.quaternion not in ("", order))]
    pairs = [(axes, direction) for axes in AXES for direction in directions]
    known = [Convention(*pair, order) for order in orders for pair in pairs]
    return [own, *(other for other in known if other != own)]


def reinterpret(sequence: CameraSequence, convention: str) -> CameraSequence:
    """The cameras that the file would have given, had its numbers been read as `convention`: "opengl w2c", or, of
    quaternions, "opencv c2w wxyz". Intrinsics, times and unit stay. Raises ValueError for other words.
    """
    words = convention.split()
    matching = [known for known in alternatives(sequence) if list(known)[: len(words)] == words]
    if len(words) < 2 or not matching:
        known = ", ".join(map(str, alternatives(sequence)))
        raise ValueError(f"{show(convention)} is no convention (axes and direction) of these cameras; known: {known}")
    wanted = matching[0]
    numbers = axes_from_opencv(sequence.camera.c2w, sequence.file_axes)
    if sequence.file_direction == "w2c":
        numbers = w2c_from_c2w(numbers)
    if wanted.quaternion != sequence.file_quaternion:
        wxyz = quaternion_from_matrix(numbers[:, :3, :3])
        numbers = numbers.clone()  # (w, x, y, z) stand as x, y, z, w in the file, and are read as w first; or back
        shift = -1 if wanted.quaternion == "wxyz" else 1
        numbers[:, :3, :3] = matrix_from_quaternion(wxyz.roll(shift, -1))
    if wanted.direction == "w2c":
        numbers = c2w_from_w2c(numbers, Place("reinterpreted cameras"))
    return replace(
        sequence,
        camera=replace(sequence.camera, c2w=axes_to_opencv(numbers, wanted.axes)),
        file_axes=wanted.axes,
        file_direction=wanted.direction,
        file_quaternion=wanted.quaternion,
    )
