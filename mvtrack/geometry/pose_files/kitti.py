"""KITTI odometry poses: twelve numbers a line, a camera-to-world matrix [R | t] row by row; OpenCV axes.

Format: the odometry benchmark's development kit (cvlibs.net/datasets/kitti). KITTI's own files are in metres; visual
odometry programs write the same format at any scale. No intrinsics, times or names.
"""

import torch

from mvtrack.config.pose_files import ReadOptions
from mvtrack.geometry.camera import Camera
from mvtrack.geometry.pose_files.geometry import full_poses
from mvtrack.geometry.pose_files.options import image_size, lens_matrix
from mvtrack.geometry.pose_files.sequence import CameraSequence, frame_names
from mvtrack.geometry.pose_files.source import LENS_OPTIONS, PoseFormat, PoseSource, row_numbers

_COLUMNS = 12


def read(source: PoseSource, options: ReadOptions) -> CameraSequence:
    """All frames of the file."""
    size = image_size(options, source.place)
    rows = [row_numbers(row) for row in source.rows(_COLUMNS, " (r r r t, three times)")]
    K = lens_matrix(options, size, source.place).expand(len(rows), 3, 3)
    return CameraSequence(
        Camera(full_poses(torch.tensor(rows, dtype=torch.float64).unflatten(-1, (3, 4))), K, size, options.metric),
        frame_names(len(rows)),
        convention="KITTI poses: OpenCV axes, camera-to-world, no intrinsics",
    )


def write(sequence: CameraSequence) -> bytes:
    """The file's bytes. Nothing but poses has a place in this format."""
    lines = [" ".join(map(repr, row)) for row in sequence.camera.c2w.double()[:, :3].flatten(1).tolist()]
    return "\n".join([*lines, ""]).encode()


KITTI = PoseFormat(
    "kitti", "KITTI odometry poses txt", "opencv", "c2w", "unknown", lambda source: source.has_rows_of(_COLUMNS),
    read, write, (*LENS_OPTIONS, "metric"),
)  # fmt: skip
