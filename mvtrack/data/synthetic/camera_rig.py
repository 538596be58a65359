"""Cameras for rendered scenes: a moving reference view and further views on presets, combinations or pure rotations."""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from mvtrack.geometry.camera import Camera
from mvtrack.geometry.presets import PRESETS
from mvtrack.geometry.trajectory import CameraPath

_CLEARANCE_M = 0.1  # of a camera above the ground
_DRAWS = 20
_MIDDLE = np.array([0.0, -0.4, 0.0])  # what the reference looks at, about the objects' height


@dataclass(frozen=True)
class RigStyle:
    """Ranges that cameras are drawn from.

    max_angle_deg: largest preset angle; translations and dollies reach what the same angle spans at the pivot.
    rotation_only: share of target views that turn and zoom at the reference's place (virtual pan-tilt-zoom).
    moving_reference: share of clips whose reference camera moves.
    focal: range of focal length / image width.
    above_ground: paths that lead below the ground are drawn anew.
    """

    min_angle_deg: float = 5.0
    max_angle_deg: float = 25.0
    rotation_only: float = 0.3
    moving_reference: float = 0.6
    focal: tuple[float, float] = (0.8, 1.6)
    above_ground: bool = False


def sample_cameras(
    rng: np.random.Generator, num_views: int, num_frames: int, size: tuple[int, int], style: RigStyle
) -> Camera:
    """Cameras (V, T) of one scene, view 0 the reference. With one frame, every view stands where its path would end."""
    focal = math.exp(rng.uniform(*np.log(style.focal)))
    first, pivot_m = base_pose(rng, focal * size[1] / max(size))
    reference = _drawn_above_ground(style, lambda: first @ reference_motion(rng, pivot_m, num_frames, style))
    poses, intrinsics = [reference], [intrinsics_path(rng, np.full(num_frames, focal), size)]
    for _ in range(num_views - 1):
        if rng.uniform() < style.rotation_only:
            pose, focal_path = _rotation_only(rng, reference, focal, style)
        else:
            pose = _drawn_above_ground(style, lambda: first @ target_motion(rng, pivot_m, num_frames, style))
            changed = rng.uniform() < 0.3
            ends = math.log(focal) + rng.uniform(-0.25, 0.25, 2) * changed
            focal_path = np.exp(np.linspace(*ends, num_frames))
        poses.append(pose)
        intrinsics.append(intrinsics_path(rng, focal_path, size))
    return Camera(torch.stack(poses).float(), torch.stack(intrinsics).float(), size, scale_known=True)


def _drawn_above_ground(style: RigStyle, draw: Callable[[], Float[Tensor, "T 4 4"]]) -> Float[Tensor, "T 4 4"]:
    """A path whose cameras stay above the ground, where the style asks for it; of bad luck the last one, lifted."""
    for _ in range(_DRAWS if style.above_ground else 1):
        path = draw()
        lowest = float(path[:, 1, 3].max())
        if lowest < -_CLEARANCE_M:
            return path
    if style.above_ground:
        path[:, 1, 3] -= lowest + _CLEARANCE_M
    return path


def base_pose(rng: np.random.Generator, focal: float) -> tuple[Float[Tensor, "4 4"], float]:
    """The reference's first pose (float64) and its distance from the scene's middle, farther for longer lenses."""
    elevation, azimuth = math.radians(rng.uniform(6, 38)), rng.uniform(0, 2 * math.pi)
    distance = rng.uniform(3.9, 5.2) * (focal / 1.1) ** 0.7
    forward = np.array(
        [math.cos(elevation) * math.sin(azimuth), math.sin(elevation), math.cos(elevation) * math.cos(azimuth)]
    )
    right = np.array([math.cos(azimuth), 0, -math.sin(azimuth)])
    roll = math.radians(rng.uniform(-4, 4))
    down = np.cross(forward, right)
    right, down = math.cos(roll) * right + math.sin(roll) * down, math.cos(roll) * down - math.sin(roll) * right
    aim = _MIDDLE + rng.uniform(-0.4, 0.4, 3) * [1, 0.5, 1]
    pose = np.eye(4)
    pose[:3, :3] = np.stack([right, down, forward], 1)
    pose[:3, 3] = aim - distance * forward
    pose[1, 3] = min(pose[1, 3], -0.35)  # stay above the ground
    return torch.from_numpy(pose), distance


def reference_motion(
    rng: np.random.Generator, pivot_m: float, num_frames: int, style: RigStyle
) -> Float[Tensor, "T 4 4"]:
    """Relative path of the reference: still, a gentle preset, or a slow drift."""
    kind = rng.uniform()
    if kind > style.moving_reference:
        return torch.eye(4, dtype=torch.float64).expand(num_frames, 4, 4)
    gentle = replace(style, min_angle_deg=2.0, max_angle_deg=10.0)
    if kind < style.moving_reference / 2:
        return _preset(rng, pivot_m, gentle, start=0.0).poses(num_frames)
    return _drift(rng, pivot_m, num_frames)


def target_motion(rng: np.random.Generator, pivot_m: float, num_frames: int, style: RigStyle) -> Float[Tensor, "T 4 4"]:
    """Relative path of a target view: one preset, or one after another, some with a drift on top."""
    start = rng.uniform(0, 0.8) if rng.uniform() < 0.6 else 0.0
    pose = _preset(rng, pivot_m, style, start).poses(num_frames)
    if rng.uniform() < 0.35:
        smaller = replace(style, max_angle_deg=0.6 * style.max_angle_deg)
        pose = pose @ _preset(rng, pivot_m, smaller, start).poses(num_frames)
    if rng.uniform() < 0.2:
        pose = pose @ _drift(rng, pivot_m, num_frames)
    return pose


def _preset(rng: np.random.Generator, pivot_m: float, style: RigStyle, start: float) -> CameraPath:
    name = str(rng.choice(list(PRESETS)))
    angle = rng.uniform(style.min_angle_deg, style.max_angle_deg)
    return CameraPath(
        name,
        amount=amount_of(name, angle, pivot_m),
        pivot_m=pivot_m,
        look_at=rng.uniform() < 0.85,
        speed="linear" if rng.uniform() < 0.5 else "ease",
        start=start,
    )


def amount_of(preset: str, angle_deg: float, pivot_m: float) -> float:
    """A preset's amount that is as strong as a turn by `angle_deg` seen from the pivot."""
    if preset.startswith("tilt"):
        return 0.6 * angle_deg
    if PRESETS[preset].unit == "deg":
        return angle_deg
    return pivot_m * math.tan(math.radians(angle_deg)) * (0.8 if preset.startswith("zoom") else 0.7)


def _drift(rng: np.random.Generator, pivot_m: float, num_frames: int) -> Float[Tensor, "T 4 4"]:
    """Slow hand-held motion: sums of two sine waves in yaw, pitch and position, starting at the identity."""
    time = np.linspace(0, 1, num_frames)[:, None, None]
    rate, phase = rng.uniform(0.3, 1.3, (1, 5, 2)), rng.uniform(0, 2 * np.pi, (1, 5, 2))
    wave = (np.sin(2 * np.pi * rate * time + phase) * rng.uniform(0.3, 1, (1, 5, 2))).sum(-1)
    wave = torch.from_numpy(wave - wave[:1])
    pan = CameraPath("pan_right", amount=1.0).poses_at(wave[:, 0] * 3.0)
    tilt = CameraPath("tilt_up", amount=1.0).poses_at(wave[:, 1] * 2.0)
    pose = pan @ tilt
    pose[:, :3, 3] = wave[:, 2:] * 0.05 * pivot_m
    return pose


def _rotation_only(
    rng: np.random.Generator, reference: Float[Tensor, "T 4 4"], focal: float, style: RigStyle
) -> tuple[Float[Tensor, "T 4 4"], np.ndarray]:
    """A virtual pan-tilt-zoom view: the reference's centre, another direction and focal length over time."""
    num_frames = len(reference)
    begin = rng.uniform(0, 0.8) if rng.uniform() < 0.5 else 0.0
    progress = torch.linspace(begin, 1, num_frames, dtype=torch.float64) if num_frames > 1 else torch.ones(1).double()
    angle = rng.uniform(-1, 1, 2) * np.array([0.7, 0.4]) * style.max_angle_deg * min(1.0, 1.1 / focal)
    pan = CameraPath("pan_right", amount=float(angle[0])).poses_at(progress)
    tilt = CameraPath("tilt_up", amount=float(angle[1])).poses_at(progress)
    zoom = rng.uniform(-0.35, 0.35) if rng.uniform() < 0.6 else 0.0
    return reference @ pan @ tilt, focal * np.exp(zoom * progress.numpy())


def intrinsics_path(rng: np.random.Generator, focal: np.ndarray, size: tuple[int, int]) -> Float[Tensor, "T 3 3"]:
    height, width = size
    K = np.zeros((len(focal), 3, 3))
    K[:, 0, 0] = K[:, 1, 1] = focal * width
    off_centre = rng.uniform(-0.06, 0.06, 2) * (rng.uniform() < 0.4)
    K[:, 0, 2] = width * (0.5 + off_centre[0])
    K[:, 1, 2] = height * (0.5 + off_centre[1])
    K[:, 2, 2] = 1
    return torch.from_numpy(K)
