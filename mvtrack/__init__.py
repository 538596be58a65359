"""Re-shoot a video along a new camera path, and train the models that do it."""

from mvtrack.camera import Camera
from mvtrack.trajectory import CameraPath
from mvtrack.video_clip import Clip

__all__ = ["Camera", "CameraPath", "Clip", "load_model", "reshoot_file", "track_files"]


def __getattr__(name: str):
    """Load what pulls in the whole model only when it is asked for."""
    if name == "reshoot_file":
        from mvtrack.reshooting import reshoot_file

        return reshoot_file
    if name == "track_files":
        from mvtrack.track_job import track_files

        return track_files
    if name == "load_model":
        from mvtrack.backbone.model import load_model

        return load_model
    raise AttributeError(f"module 'mvtrack' has no attribute {name!r}")
