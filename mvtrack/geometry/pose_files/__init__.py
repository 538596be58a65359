"""Camera files of every common format, read into and written from one type, `CameraSequence`.

    sequence = read_cameras("transforms.json")
    write_cameras("poses.npz", sequence, "npz")

docs/pose_formats.md lists the formats, what each one means and which options it needs.
"""

from mvtrack.geometry.pose_files.distortion import Distortion
from mvtrack.geometry.pose_files.files import read_cameras, write_cameras
from mvtrack.geometry.pose_files.registry import FORMATS
from mvtrack.geometry.pose_files.sequence import CameraSequence
from mvtrack.geometry.pose_files.source import PoseFormat

__all__ = ["FORMATS", "CameraSequence", "Distortion", "PoseFormat", "read_cameras", "write_cameras"]
