"""Polycam raw data: a folder `keyframes/corrected_cameras` (or `cameras`) with one JSON file a keyframe.

`t_00` … `t_23` are a camera-to-world matrix [R | t] in ARKit's world, with OpenGL camera axes, in metres; `timestamp`
is in microseconds, and so are the files' names. Keyframes are taken when the phone has moved: times are uneven.
"""

import torch

from mvtrack.config.pose_files import ReadOptions
from mvtrack.geometry.camera import Camera
from mvtrack.geometry.pose_files.dycheck import camera_files
from mvtrack.geometry.pose_files.geometry import axes_to_opencv, full_poses, pinhole_matrix
from mvtrack.geometry.pose_files.parse import (
    Place,
    check_name,
    frame_count,
    mapping,
    number,
    place_of,
    positive,
    read_json,
    required,
    side_px,
)
from mvtrack.geometry.pose_files.sequence import CameraSequence
from mvtrack.geometry.pose_files.source import PoseFormat, PoseSource

_POSE = tuple(f"t_{row}{column}" for row in range(3) for column in range(4))
_LENS = ("fx", "fy", "cx", "cy")
_MICROSECONDS = 1e6


def read(source: PoseSource, options: ReadOptions) -> CameraSequence:
    """All keyframes in order of their time; those of one file, where a file is given."""
    files = camera_files(source.path) if source.is_folder else [source.path]
    frame_count(len(files), source.place)
    trees = [(mapping(read_json(file), place_of(file)), place_of(file)) for file in files]
    for file in files:
        check_name(file.stem, place_of(file))
    sizes = {(_side(tree, "height", at), _side(tree, "width", at)) for tree, at in trees}
    if len(sizes) > 1:
        raise source.place.error(f"has {len(sizes)} image sizes, expected one size for all frames")
    poses = torch.tensor([[_number(tree, key, at) for key in _POSE] for tree, at in trees], dtype=torch.float64)
    lens = torch.tensor(
        [[positive(_number(tree, key, at), at.field(key)) for key in _LENS] for tree, at in trees], dtype=torch.float64
    )
    timed = all("timestamp" in tree for tree, _ in trees)
    times = [_number(tree, "timestamp", at) / _MICROSECONDS for tree, at in trees] if timed else None
    return CameraSequence(
        Camera(
            axes_to_opencv(full_poses(poses.unflatten(-1, (3, 4))), "opengl"), pinhole_matrix(*lens.unbind(-1)),
            sizes.pop(), scale_known=True,
        ),
        tuple(file.stem for file in files),
        None if times is None else torch.tensor(times, dtype=torch.float64),
        convention="Polycam raw data: OpenGL axes, camera-to-world, metres",
        file_axes="opengl",
    )  # fmt: skip


def _number(tree: dict, key: str, place: Place) -> float:
    return number(required(tree, key, place), place.field(key))


def _side(tree: dict, key: str, place: Place) -> int:
    return side_px(required(tree, key, place), place.field(key))


def _detect(source: PoseSource) -> bool:
    if source.is_folder:
        files = camera_files(source.path)
        return bool(files) and PoseSource(files[0]).fields.keys() >= {*_POSE}
    return source.fields.keys() >= {*_POSE}


POLYCAM = PoseFormat(
    "polycam", "Polycam raw data (folder of keyframes' cameras)", "opengl", "c2w", "metres", _detect, read,
    holds=("names", "times", "intrinsics", "size", "unit"), is_folder=True,
)  # fmt: skip
