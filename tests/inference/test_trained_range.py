"""Angles of a path against rotations that are known, and when a model says that it does not know them."""

from dataclasses import replace

import pytest
import torch

from mvtrack.config.encoders import CodecConfig
from mvtrack.config.model import DiTConfig, ModelConfig, RayConfig
from mvtrack.geometry.camera import Camera, intrinsics_from_fov
from mvtrack.geometry.trajectory import CameraPath
from mvtrack.inference.trained_range import range_notes, view_angles

T, DISTANCE, SIZE = 5, 3.0, (64, 112)
CONFIG = ModelConfig(
    dit=DiTConfig(in_channels=32, out_channels=32, patch_size=(1, 1, 1)), rays=RayConfig(token_px=4),
    codec=CodecConfig(), sizes=((64, 64), SIZE), num_frames=5, max_angle_deg=40.0,
)  # fmt: skip


def cameras(preset: str, amount: float, size: tuple[int, int] = SIZE) -> Camera:
    first = CameraPath("pan_left", 70.0).poses(2)[-1]  # the world's axes do not matter
    poses = torch.stack([first.expand(T, 4, 4), first @ CameraPath(preset, amount, pivot_m=DISTANCE).poses(T)])
    return Camera(poses.float(), intrinsics_from_fov(55.0, size).expand(2, T, 3, 3), size)


@pytest.mark.parametrize("preset", ["arc_left", "arc_right", "pan_left", "tilt_up"])
def test_angles_are_those_of_the_path(preset):
    angles = view_angles(cameras(preset, 37.0), DISTANCE)
    assert angles[0] < 0.01  # arc cosines of float32 poses
    assert float(angles[-1]) == pytest.approx(37.0, abs=0.01)


def test_moving_sideways_turns_the_view_of_the_subject():
    angles = view_angles(cameras("translate_up", DISTANCE), DISTANCE)
    assert float(angles[-1]) == pytest.approx(45.0, abs=0.01)


def test_paths_beyond_training_are_noted():
    assert range_notes(CONFIG, cameras("arc_left", 40.0), DISTANCE) == []
    (note,) = range_notes(CONFIG, cameras("arc_left", 55.0), DISTANCE)
    assert note.startswith("the path turns by 55 degrees, the model was trained to 40:")
    assert range_notes(replace(CONFIG, max_angle_deg=None), cameras("arc_left", 55.0), DISTANCE) == []


def test_other_picture_sizes_are_noted():
    (note,) = range_notes(CONFIG, cameras("arc_left", 10.0, (48, 64)), DISTANCE)
    assert note == "the model's picture is 48x64, it was trained at 64x64, 64x112"
