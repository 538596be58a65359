"""A camera sequence that no symmetry can hide a mistake in, and the options that formats need to read it back."""

import math

import pytest
import torch

from mvtrack.geometry.camera import Camera
from mvtrack.geometry.pose_files import CameraSequence, Distortion

T, H, W = 5, 46, 62
SIZE_OPTIONS = {"size": (H, W)}
LENS_OPTIONS = {"size": (H, W), "focal_px": 53.0}
READ_OPTIONS = {"recammaster": LENS_OPTIONS, "tum": LENS_OPTIONS, "kitti": LENS_OPTIONS, "realestate10k": SIZE_OPTIONS}


def turn(axis: int, degrees: float) -> torch.Tensor:
    """Rotation about one axis."""
    c, s = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    rotation = torch.eye(3, dtype=torch.float64)
    a, b = (axis + 1) % 3, (axis + 2) % 3
    rotation[a, a], rotation[a, b], rotation[b, a], rotation[b, b] = c, -s, s, c
    return rotation


def make_sequence(num_frames: int = T, plain_lens: bool = True) -> CameraSequence:
    """Cameras that turn about all axes and move. plain_lens: the one that LENS_OPTIONS give; else fx, fy, cx, cy
    change from frame to frame."""
    c2w = torch.eye(4, dtype=torch.float64).repeat(num_frames, 1, 1)
    for t in range(num_frames):
        c2w[t, :3, :3] = turn(1, 7 + 5 * t) @ turn(0, -13 + 2 * t) @ turn(2, 3 - t)
        c2w[t, :3, 3] = torch.tensor([0.3 + 0.11 * t, -0.7 + 0.05 * t * t, 1.9 - 0.23 * t])
    K = torch.tensor([[53.0, 0, W / 2], [0, 53.0, H / 2], [0, 0, 1]], dtype=torch.float64).repeat(num_frames, 1, 1)
    if not plain_lens:
        K[:, 0, 0] += torch.arange(num_frames) * 0.7
        K[:, 1, 1] += 2.5
        K[:, 0, 2] += 1.3
        K[:, 1, 2] -= 0.9
    times = torch.arange(num_frames, dtype=torch.float64) / 8 + 0.5
    names = tuple(f"frame_{t:05d}" for t in range(num_frames))
    return CameraSequence(Camera(c2w, K, (H, W), True), names, times)


@pytest.fixture
def sequence() -> CameraSequence:
    return make_sequence()


@pytest.fixture
def odd_lens() -> CameraSequence:
    """Intrinsics that change, and a distorted lens."""
    from dataclasses import replace

    coefficients = torch.tensor([-0.11, 0.07, 0.003, -0.002, 0.011], dtype=torch.float64)
    return replace(make_sequence(plain_lens=False), distortion=Distortion(coefficients))


@pytest.fixture
def read_options() -> dict[str, dict]:
    return READ_OPTIONS


@pytest.fixture
def points(generator) -> torch.Tensor:
    """Points in front of the cameras."""
    spread = torch.rand(11, 3, generator=generator, dtype=torch.float64) - 0.5
    return spread * torch.tensor([2.0, 1.5, 2.0]) + torch.tensor([1.0, 0.3, 7.0])


@pytest.fixture
def rotation_about():
    return turn
