"""Clips of still pictures: two or three views of sizes of their own, with cameras."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from mvtrack.geometry.camera import Camera, intrinsics_from_fov
from mvtrack.geometry.pose_files import CameraSequence, write_cameras
from mvtrack.video.writer import write_video

FRAMES = 7
SIZES = {"a": (24, 32), "b": (36, 28), "c": (20, 40)}


@pytest.fixture
def make_clip(generator) -> Callable[..., Path]:
    """Write a clip's folder. views: their names, of `SIZES`."""

    def make(folder: Path, views: str = "abc") -> Path:
        folder.mkdir(parents=True)
        for place, view in enumerate(views):
            size = SIZES[view]
            coarse = torch.rand(FRAMES, 3, 3, 4, generator=generator) * 2 - 1
            write_video(folder / f"{view}.mp4", torch.nn.functional.interpolate(coarse, size, mode="bilinear"), 10.0)
            c2w = torch.eye(4).double().repeat(FRAMES, 1, 1)
            c2w[:, 0, 3] = 0.2 * place + 0.05 * torch.arange(FRAMES)
            camera = Camera(c2w, intrinsics_from_fov(50.0, size).double().expand(FRAMES, 3, 3), size, True)
            write_cameras(folder / f"{view}.json", CameraSequence(camera, tuple(map(str, range(FRAMES)))), "json")
        return folder

    return make
