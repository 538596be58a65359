"""Cameras as the tracking head takes them, in training and in use alike."""

from mvtrack.geometry.camera import Camera
from tracking_head import Cameras, HeadConfig


def head_cameras(camera: Camera, head: HeadConfig) -> Cameras | None:
    """Cameras (..., V, f) at the latent frames, for the model's picture; None for a head that takes none.

    Neither the world's axes nor its unit matter: the head brings cameras into a frame of their own.
    """
    return None if head.camera == "none" else Cameras(camera.c2w, camera.K)
