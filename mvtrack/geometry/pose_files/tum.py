"""TUM trajectory txt: time and camera-to-world pose as a quaternion, one frame a line; no intrinsics.

Format: cvg.cit.tum.de/data/datasets/rgbd-dataset/file_formats. `timestamp tx ty tz qx qy qz qw`, seconds, OpenCV
camera axes. TUM's own files are in metres, but monocular SLAM programs write the same format at any scale. Two habits
of such programs are known: times in nanoseconds (ORB-SLAM on EuRoC), and quaternions with w first (MonST3R and others
of its family). The second is recognised by a first pose that does not turn in that order only; where the numbers may be
either, the option `quaternion` is asked for.
"""

import math

import torch

from mvtrack.config.pose_files import ReadOptions
from mvtrack.geometry.camera import Camera
from mvtrack.geometry.pose_files.geometry import poses_of
from mvtrack.geometry.pose_files.options import image_size, lens_matrix, needed
from mvtrack.geometry.pose_files.parse import Place, number, show, text_number
from mvtrack.geometry.pose_files.sequence import CameraSequence
from mvtrack.geometry.pose_files.source import LENS_OPTIONS, PoseFormat, PoseSource, row_numbers
from mvtrack.geometry.rotation import matrix_from_quaternion, quaternion_from_matrix

_COLUMNS = 8
_QUATERNION_TOLERANCE = 1e-2  # of the norm: passes a quaternion that was written with three digits
_NANOSECONDS_FROM = 1e16  # a clock of seconds reaches 2e9 today, one of microseconds 2e15
_MAX_TIME = 1e20
_NO_TURN, _FEW_TURNS = 0.9999, 0.9  # |w|: within 1.6 degrees of no turn, within 52 degrees


def read(source: PoseSource, options: ReadOptions) -> CameraSequence:
    """All frames of the file, named by their time stamps as written."""
    size = image_size(options, source.place)
    rows = source.rows(_COLUMNS, " (timestamp tx ty tz qx qy qz qw)")
    values = torch.tensor([row_numbers((at, tokens[1:])) for at, tokens in rows], dtype=torch.float64)
    times = torch.tensor([_time(tokens[0], at) for at, tokens in rows], dtype=torch.float64)
    for (at, _), quaternion in zip(rows, values[:, 3:].tolist(), strict=True):
        check_quaternion(quaternion, at)
    order, notes = _quaternion_order(values[:, 3:], options.quaternion, source.place)
    if (times >= _NANOSECONDS_FROM).all():
        times, notes = times / 1e9, (*notes, "its times are nanoseconds")
    wxyz = values[:, 3:] if order == "wxyz" else values[:, [6, 3, 4, 5]]
    return CameraSequence(
        Camera(
            poses_of(matrix_from_quaternion(wxyz), values[:, :3]),
            lens_matrix(options, size, source.place).expand(len(rows), 3, 3), size, options.metric,
        ),
        tuple(tokens[0] for _, tokens in rows),
        times,
        convention=f"TUM trajectory: OpenCV axes, camera-to-world, quaternions {order}, no intrinsics",
        file_quaternion=order,
        notes=notes,
    )  # fmt: skip


def _time(token: str, place: Place) -> float:
    try:
        return number(float(token), place, -_MAX_TIME, _MAX_TIME) if "_" not in token and token.isascii() else 1 / 0
    except (ValueError, ZeroDivisionError):
        return text_number(token, place)


def _quaternion_order(columns: torch.Tensor, stated: str | None, place: Place) -> tuple[str, tuple[str, ...]]:
    """xyzw or wxyz, and a note where it is not the format's own."""
    if stated is not None:
        return stated, ()
    first_still, last_still = (float(columns[0, i].abs()) >= _NO_TURN for i in (0, 3))
    if first_still and not last_still:
        return "wxyz", ("its quaternions are taken to have w first: so read, the first camera does not turn",)
    if not last_still and (columns[:, 0].abs() > _FEW_TURNS).all():
        raise place.error(
            f"its quaternions, such as {show([round(v, 4) for v in columns[0].tolist()])}, may have w first or last: "
            f"{needed('quaternion')}, wxyz or xyzw"
        )
    return "xyzw", ()


def check_quaternion(quaternion: list[float], place: Place) -> None:
    """Raises ValueError unless the norm is 1, up to rounding."""
    norm = math.hypot(*quaternion)
    if not abs(norm - 1) <= _QUATERNION_TOLERANCE:
        raise place.error(f"the quaternion's norm is {norm:.6g}, expected 1")


def write(sequence: CameraSequence) -> bytes:
    """The file's bytes. Intrinsics, lens and names have no place in this format.

    Raises ValueError without time stamps.
    """
    if sequence.timestamps_s is None:
        raise ValueError("TUM files need a time for every frame: set timestamps_s")
    c2w = sequence.camera.c2w.double()
    wxyz = quaternion_from_matrix(c2w[:, :3, :3])
    rows = torch.cat([sequence.timestamps_s.double()[:, None], c2w[:, :3, 3], wxyz[:, [1, 2, 3, 0]]], -1)
    lines = [" ".join(map(repr, row)) for row in rows.tolist()]
    return "\n".join(["# timestamp tx ty tz qx qy qz qw", *lines, ""]).encode()


TUM = PoseFormat(
    "tum", "TUM trajectory txt", "opencv", "c2w", "unknown", lambda source: source.has_rows_of(_COLUMNS), read, write,
    (*LENS_OPTIONS, "quaternion", "metric"), ("times",),
)  # fmt: skip
