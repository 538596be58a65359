"""Paths given as poses: interpolation between keyframes, resampling, and warnings about jumps."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from mvtrack.geometry.camera import relative_pose
from mvtrack.geometry.presets import PIVOT_M
from mvtrack.geometry.rotation import rotation_matrix, rotation_vector

# Steps beyond these are worth a warning: degrees a frame, and subject distances a frame.
_TURN_LIMIT_DEG, _MOVE_LIMIT = 6.0, 0.12


def interpolate_poses(
    poses: Float[Tensor, "K 4 4"], key_times: Float[Tensor, "K"], times: Float[Tensor, "T"]
) -> Float[Tensor, "T 4 4"]:
    """A smooth path through keyframes: cubic Hermite curves (Catmull-Rom velocities) for centres and rotations, which
    do not swing past a key where the path rests or its keys come at very different rates.

    Times must ascend; times outside the keys are refused. Two keys give even motion, one key stands still.
    """
    if len(poses) != len(key_times) or (key_times.diff() <= 0).any():
        raise ValueError("keyframe times must ascend and be as many as the poses")
    if len(times) and (times.min() < key_times[0] - 1e-9 or times.max() > key_times[-1] + 1e-9):
        raise ValueError(f"times {float(times.min()):g}..{float(times.max()):g} lie outside the keyframes")
    poses, key_times, times = poses.double(), key_times.double(), times.double()
    if len(poses) == 1:
        return poses.expand(len(times), 4, 4).clone()
    i = (torch.bucketize(times, key_times, right=True) - 1).clamp(0, len(poses) - 2)
    span = (key_times[i + 1] - key_times[i])[:, None]
    u = ((times - key_times[i])[:, None] / span).clamp(0, 1)
    centre, rotation = poses[:, :3, 3], poses[:, :3, :3]
    turn = rotation_vector(rotation[:-1].mT @ rotation[1:])
    move_speed = _key_velocities(centre.diff(dim=0), key_times)
    turn_speed = _key_velocities(turn, key_times)
    out = torch.eye(4, dtype=torch.float64).repeat(len(times), 1, 1)
    out[:, :3, 3] = centre[i] + _hermite(u, centre[i + 1] - centre[i], move_speed[i] * span, move_speed[i + 1] * span)
    vector = _hermite(u, turn[i], turn_speed[i] * span, turn_speed[i + 1] * span)
    out[:, :3, :3] = rotation[i] @ rotation_matrix(vector)
    return out


def _key_velocities(steps: Float[Tensor, "J 3"], key_times: Float[Tensor, "K"]) -> Float[Tensor, "K 3"]:
    """Velocity at each key: the mean of the neighbouring steps' velocities, weighted by the other's duration, at most
    three times the slower one, so that the curve between two keys does not overshoot (Fritsch and Carlson 1980)."""
    duration = key_times.diff()[:, None]
    velocity = steps / duration
    inner = (velocity[:-1] * duration[1:] + velocity[1:] * duration[:-1]) / (duration[:-1] + duration[1:])
    speed = velocity.norm(dim=-1, keepdim=True)
    limit = 3 * torch.minimum(speed[:-1], speed[1:]) / inner.norm(dim=-1, keepdim=True).clamp_min(1e-300)
    return torch.cat([velocity[:1], inner * limit.clamp_max(1), velocity[-1:]])


def _hermite(u: Tensor, end: Tensor, velocity0: Tensor, velocity1: Tensor) -> Tensor:
    """Cubic from 0 to `end` with given end velocities, at u in [0, 1]."""
    return (3 * u**2 - 2 * u**3) * end + (u**3 - 2 * u**2 + u) * velocity0 + (u**3 - u**2) * velocity1


def resample_poses(poses: Float[Tensor, "K 4 4"], num_frames: int) -> Float[Tensor, "T 4 4"]:
    """The same motion with another number of frames; first and last pose are kept."""
    if num_frames == len(poses):
        return poses.double()
    keys = torch.linspace(0, 1, len(poses), dtype=torch.float64) if len(poses) > 1 else torch.zeros(1).double()
    times = (
        torch.linspace(0, 1, num_frames, dtype=torch.float64) if len(poses) > 1 else torch.zeros(num_frames).double()
    )
    return interpolate_poses(poses, keys, times)


def warn_of_jumps(poses: Float[Tensor, "T 4 4"], subject_distance: float) -> list[str]:
    """Sentences about steps between frames that are too large to look smooth; empty when the path is even.

    A step counts when it turns by more than 6 degrees or moves by more than 12 % of the subject's distance, and is
    three times as large as the path's median step.
    """
    if len(poses) < 3:
        return []
    step = relative_pose(poses[:-1], poses[1:])
    turn = torch.rad2deg(rotation_vector(step[:, :3, :3]).norm(dim=-1))
    move = step[:, :3, 3].norm(dim=-1) / subject_distance
    found = []
    for name, size, limit, unit in (
        ("turns", turn, _TURN_LIMIT_DEG, "degrees"),
        ("moves", move, _MOVE_LIMIT, "subject distances"),
    ):
        far = (size > limit) & (size > 3 * size.median())
        if far.any():
            worst = int(size.argmax())
            found.append(
                f"the path {name} by {float(size[worst]):.2f} {unit} between frames {worst} and {worst + 1} "
                f"({int(far.sum())} such steps; median {float(size.median()):.3f})"
            )
        elif (size > limit).float().mean() > 0.5:
            found.append(f"the path {name} by {float(size.median()):.2f} {unit} a frame: too fast to look smooth")
    return found


@dataclass(frozen=True)
class PosePath:
    """A path given by poses (K, 4, 4), relative to the source's first frame, and focal lengths over the source's.

    key_times: when each pose is passed, from 0 to 1; None: evenly. Before the first and after the last of them the
    path rests. reading: what was decided while reading it.
    """

    given: Float[Tensor, "K 4 4"]
    lens_given: Float[Tensor, "K"]
    pivot_m: float = PIVOT_M
    label: str = "poses"
    key_times: Float[Tensor, "K"] | None = None
    reading: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.given.ndim != 3 or len(self.given) != len(self.lens_given) or len(self.given) == 0:
            raise ValueError(f"a path needs poses (K, 4, 4) and K focal factors, got {tuple(self.given.shape)}")
        if not self.pivot_m > 0:
            raise ValueError(f"the subject's distance must be positive, got {self.pivot_m}")

    def notes(self, num_frames: int) -> list[str]:
        """What has to be done to the poses for a video of so many frames, in words."""
        given, notes = len(self.given), list(self.reading)
        if self.key_times is not None:
            return [*notes, f"{given} poses at their own, uneven times over {num_frames} frames by a spline"]
        if given != num_frames:
            notes.append(f"{given} poses spread evenly over {num_frames} frames by a spline")
        return notes

    def poses(self, num_frames: int) -> Float[Tensor, "T 4 4"]:
        """Camera-to-world matrices (float64), resampled to a number of frames."""
        if self.key_times is None:
            return resample_poses(self.given, num_frames)
        return interpolate_poses(self.given, self.key_times, _within(self.key_times, num_frames))

    def lens(self, num_frames: int) -> Float[Tensor, "T"]:
        """Focal factors, resampled in proportion."""
        log = self.lens_given.double().log()
        if self.key_times is not None:
            times = _within(self.key_times, num_frames)
            i = (torch.bucketize(times, self.key_times, right=True) - 1).clamp(0, len(log) - 2)
            share = (times - self.key_times[i]) / (self.key_times[i + 1] - self.key_times[i])
            return torch.lerp(log[i], log[i + 1], share).exp()
        return F.interpolate(log[None, None], num_frames, mode="linear", align_corners=True)[0, 0].exp()


def _within(key_times: Float[Tensor, "n"], num_frames: int) -> Float[Tensor, "T"]:
    """Evenly spaced times from 0 to 1, held where no key frame is any more."""
    times = torch.linspace(0, 1, num_frames, dtype=torch.float64)
    return times.clamp(float(key_times[0]), float(key_times[-1]))
