"""Re-shoot a video along a new camera path, and train the models that do it."""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mvtrack.data.clip import Clip
    from mvtrack.geometry.camera import Camera
    from mvtrack.geometry.trajectory import CameraPath
    from mvtrack.inference.pipeline import reshoot_file
    from mvtrack.inference.tracking.track_files import track_files
    from mvtrack.inference.views.pipeline import views_from_photos
    from mvtrack.models.reshoot_model import load_model
    from mvtrack.video.reader import open_video

__all__ = [
    "Camera",
    "CameraPath",
    "Clip",
    "load_model",
    "open_video",
    "reshoot_file",
    "track_files",
    "views_from_photos",
]

_MODULES = {  # each is imported when it is first asked for, so that `mvtrack --help` needs no torch
    "Camera": "mvtrack.geometry.camera",
    "CameraPath": "mvtrack.geometry.trajectory",
    "Clip": "mvtrack.data.clip",
    "load_model": "mvtrack.models.reshoot_model",
    "open_video": "mvtrack.video.reader",
    "reshoot_file": "mvtrack.inference.pipeline",
    "track_files": "mvtrack.inference.tracking.track_files",
    "views_from_photos": "mvtrack.inference.views.pipeline",
}


def __getattr__(name: str) -> object:
    if name not in _MODULES:
        raise AttributeError(f"module 'mvtrack' has no attribute {name!r}")
    return getattr(import_module(_MODULES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
