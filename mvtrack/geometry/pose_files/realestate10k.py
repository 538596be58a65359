"""RealEstate10K txt: a video's URL, then one frame a line with normalised intrinsics and a world-to-camera matrix.

Format: google.github.io/realestate10k/download.html. 19 columns: microseconds, fx/w, fy/h, cx/w, cy/h, 0, 0, and
[R | t] row by row. Normalised image coordinates run from the picture's top left corner (0, 0) to its bottom right
corner (1, 1): raster pixels, once multiplied by an image size that the file does not hold. The scale of a scene is
unknown.
"""

import torch

from mvtrack.config.pose_files import ReadOptions
from mvtrack.geometry.camera import Camera
from mvtrack.geometry.pose_files.geometry import c2w_from_w2c, full_poses, pinhole_matrix, w2c_from_c2w
from mvtrack.geometry.pose_files.options import image_size
from mvtrack.geometry.pose_files.parse import Place, number, positive, show
from mvtrack.geometry.pose_files.sequence import CameraSequence, refuse_distortion, refuse_skew
from mvtrack.geometry.pose_files.source import PoseFormat, PoseSource, row_numbers

_COLUMNS = 19
_MICROSECONDS = 1e6
_HEADER = "# no video URL: written by mvtrack"


def read(source: PoseSource, options: ReadOptions) -> CameraSequence:
    """All frames, named by their time stamps. `size`: size (H, W) of the pictures that they are used on."""
    height, width = image_size(options, source.place)
    rows = source.rows(_COLUMNS, title_line=True)
    values = torch.tensor([_checked(row_numbers(row), row[0]) for row in rows], dtype=torch.float64)
    fx, fy, cx, cy = values[:, 1:5].unbind(-1)
    return CameraSequence(
        Camera(
            c2w_from_w2c(full_poses(values[:, 7:].unflatten(-1, (3, 4))), source.place),
            pinhole_matrix(fx * width, fy * height, cx * width, cy * height), (height, width), options.metric,
        ),
        tuple(str(int(time)) for time in values[:, 0].tolist()),
        values[:, 0] / _MICROSECONDS,
        file_direction="w2c",
        convention="RealEstate10K txt: OpenCV axes, world-to-camera, intrinsics normalised by the image size",
    )  # fmt: skip


def _checked(row: list[float], at: Place) -> list[float]:
    if row[0] != int(row[0]) or row[0] < 0:
        raise at.error(f"the time stamp is {show(row[0])}, expected whole microseconds")
    positive(row[1], at.field("fx"))
    positive(row[2], at.field("fy"))
    for value in row[1:5]:
        number(value, at.field("intrinsics"), -1e3, 1e3)
    if row[5] or row[6]:
        raise at.error(f"columns 6 and 7 are {row[5]:g} and {row[6]:g}, expected 0 and 0")
    return row


def write(sequence: CameraSequence) -> bytes:
    """The file's bytes. Times are rounded to whole microseconds, as the format has them; names are left out.

    Raises ValueError without time stamps, or for skew or distortion, which the format cannot hold.
    """
    if sequence.timestamps_s is None:
        raise ValueError("RealEstate10K files need a time for every frame: set timestamps_s")
    if (sequence.timestamps_s < 0).any():
        raise ValueError("RealEstate10K files cannot hold times before 0")
    refuse_skew(sequence, "RealEstate10K files")
    refuse_distortion(sequence, "RealEstate10K files")
    K, (height, width) = sequence.camera.K.double(), sequence.camera.size
    zero = torch.zeros_like(K[:, 0, 0])
    lens = torch.stack(
        [K[:, 0, 0] / width, K[:, 1, 1] / height, K[:, 0, 2] / width, K[:, 1, 2] / height, zero, zero], -1
    )
    rows = torch.cat([lens, w2c_from_c2w(sequence.camera.c2w.double())[:, :3].flatten(1)], -1).tolist()
    times_us = (sequence.timestamps_s.double() * _MICROSECONDS).round().tolist()
    lines = [f"{int(time)} {' '.join(map(repr, row))}" for time, row in zip(times_us, rows, strict=True)]
    return "\n".join([_HEADER, *lines, ""]).encode()


REALESTATE10K = PoseFormat(
    "realestate10k", "RealEstate10K txt", "opencv", "w2c", "unknown",
    lambda source: source.has_rows_of(_COLUMNS, among=2), read, write, ("size", "metric"), ("times", "intrinsics"),
)  # fmt: skip
