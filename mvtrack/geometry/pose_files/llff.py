"""LLFF `poses_bounds.npy`: 17 numbers a frame, a 3x5 matrix [R | t | (height, width, focal)] and two depths.

Format: github.com/Fyusion/LLFF. Camera axes are down, right, back; camera-to-world; the unit is COLMAP's, unknown.
"""

import torch

from mvtrack.config.pose_files import ReadOptions
from mvtrack.geometry.camera import Camera
from mvtrack.geometry.pose_files.geometry import axes_to_opencv, full_poses, pinhole_matrix
from mvtrack.geometry.pose_files.npz import MAX_MEMBER_BYTES, decode_array
from mvtrack.geometry.pose_files.parse import frame_count, numbers, read_bytes, side_px
from mvtrack.geometry.pose_files.sequence import CameraSequence, common_size, frame_names
from mvtrack.geometry.pose_files.source import PoseFormat, PoseSource


def read(source: PoseSource, options: ReadOptions) -> CameraSequence:
    """All frames, in the file's order (LLFF sorts by name)."""
    place = source.place
    rows = numbers(decode_array(read_bytes(source.path, MAX_MEMBER_BYTES), place), place, (None, 17))
    count = frame_count(len(rows), place)
    matrix = rows[:, :15].unflatten(-1, (3, 5))
    sizes = [(side_px(height, place), side_px(width, place)) for height, width in matrix[:, :2, 4].tolist()]
    height, width = common_size(sizes, place)
    focal = matrix[:, 2, 4]
    K = pinhole_matrix(focal, focal, torch.full_like(focal, width / 2), torch.full_like(focal, height / 2))
    return CameraSequence(
        Camera(axes_to_opencv(full_poses(matrix[..., :4]), "llff"), K, (height, width), options.metric),
        frame_names(count),
        convention="LLFF poses_bounds.npy: axes down, right, back; camera-to-world",
        file_axes="llff",
    )


LLFF = PoseFormat(
    "llff", "LLFF poses_bounds.npy", "llff", "c2w", "unknown", lambda source: source.magic.startswith(b"\x93NUMPY"),
    read, options=("metric",), holds=("intrinsics", "size"),
)  # fmt: skip
