"""Re-shoot a video along a new camera path, and train the models that do it."""

from mvtrack.data.clip import Clip
from mvtrack.geometry.camera import Camera
from mvtrack.geometry.trajectory import CameraPath

__all__ = ["Camera", "CameraPath", "Clip", "load_model", "reshoot_file", "track_files"]


def __getattr__(name: str):
    """Load what pulls in the whole model only when it is asked for."""
    if name == "reshoot_file":
        from mvtrack.inference.pipeline import reshoot_file

        return reshoot_file
    if name == "track_files":
        from mvtrack.inference.tracking.track_files import track_files

        return track_files
    if name == "load_model":
        from mvtrack.models.reshoot_model import load_model

        return load_model
    raise AttributeError(f"module 'mvtrack' has no attribute {name!r}")
