"""The cameras that filmed a DAVIS sequence, which it comes without: from pose files, or measured in its pictures."""

import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Bool
from PIL import Image

from mvtrack.geometry.camera import Camera
from mvtrack.geometry.pose_files.timing import FrameGrid, read_video_cameras
from mvtrack.inference.camera_estimation.source_cameras import measured_cameras


def pose_file_of(folder: Path, sequence: str) -> Path:
    """The one pose file <sequence>.* of a folder; ValueError where there is none, or several."""
    found = sorted(folder.glob(f"{sequence}.*"))
    if len(found) != 1:
        raise ValueError(f"{folder} has {len(found)} pose files {sequence}.*, expected one")
    return found[0]


def source_of_file(file: Path, pictures: Sequence[Path]) -> tuple[Camera, tuple[str, ...]]:
    """Cameras (T,) of all pictures of a sequence from its pose file, and notes of what was done to fit them. Raises
    ValueError as `read_video_cameras` does."""
    with Image.open(pictures[0]) as first:
        return read_video_cameras(file, FrameGrid(len(pictures), first.size[::-1]))


def measured_source(pictures: Path, moving: Bool[np.ndarray, "T h w"], subject_distance: float) -> Camera:
    """Cameras (T,) of a folder of pictures, those of frames that were not placed interpolated; kept once measured.

    moving: pixels that count for nothing. The unit is such that the middle depth of what the first frame shows is
    `subject_distance`; the lens is measured too. Raises CameraEstimationError with the reason when the pictures do not
    tell, ValueError where pycolmap is missing or fails.
    """
    with tempfile.TemporaryDirectory(prefix="mvtrack-masks-") as name:
        for index, mask in enumerate(moving):
            Image.fromarray(mask.astype(np.uint8) * 255).save(Path(name) / f"{index:05d}.png")
        return measured_cameras(pictures, None, subject_distance, Path(name)).camera
