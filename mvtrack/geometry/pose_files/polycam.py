"""Polycam raw data: a folder `keyframes/corrected_cameras` (or `cameras`) with one JSON file a keyframe.

`t_00` … `t_23` are a camera-to-world matrix [R | t] in ARKit's world, with OpenGL camera axes, in metres; `timestamp`
is in microseconds, and so are the files' names. Keyframes are taken when the phone has moved: times are uneven.
"""

import torch

from mvtrack.config.pose_files import ReadOptions
from mvtrack.geometry.camera import Camera
from mvtrack.geometry.pose_files.dycheck import camera_files, detect_by
from mvtrack.geometry.pose_files.geometry import axes_to_opencv, full_poses, pinhole_matrix
from mvtrack.geometry.pose_files.parse import Fields, check_name, frame_count, place_of, read_json
from mvtrack.geometry.pose_files.sequence import CameraSequence, common_size
from mvtrack.geometry.pose_files.source import PoseFormat, PoseSource

_POSE = tuple(f"t_{row}{column}" for row in range(3) for column in range(4))
_LENS = ("fx", "fy", "cx", "cy")
_MICROSECONDS = 1e6


def read(source: PoseSource, options: ReadOptions) -> CameraSequence:
    """All keyframes in order of their time; those of one file, where a file is given."""
    files = camera_files(source.path) if source.is_folder else [source.path]
    frame_count(len(files), source.place)
    trees = [Fields(read_json(file), place_of(file)) for file in files]
    for file in files:
        check_name(file.stem, place_of(file))
    size = common_size([(tree.side_px("height"), tree.side_px("width")) for tree in trees], source.place)
    poses = torch.tensor([[tree.number(key) for key in _POSE] for tree in trees], dtype=torch.float64)
    lens = torch.tensor([[tree.positive(key) for key in _LENS] for tree in trees], dtype=torch.float64)
    timed = all("timestamp" in tree for tree in trees)
    times = [tree.number("timestamp") / _MICROSECONDS for tree in trees] if timed else None
    return CameraSequence(
        Camera(
            axes_to_opencv(full_poses(poses.unflatten(-1, (3, 4))), "opengl"), pinhole_matrix(*lens.unbind(-1)),
            size, scale_known=True,
        ),
        tuple(file.stem for file in files),
        None if times is None else torch.tensor(times, dtype=torch.float64),
        convention="Polycam raw data: OpenGL axes, camera-to-world, metres",
        file_axes="opengl",
    )  # fmt: skip


POLYCAM = PoseFormat(
    "polycam", "Polycam raw data (folder of keyframes' cameras)", "opengl", "c2w", "metres", detect_by(_POSE), read,
    holds=("names", "times", "intrinsics", "size", "unit"), is_folder=True,
)  # fmt: skip
