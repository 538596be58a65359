"""Camera paths as functions of time: the ten basic presets of ReCamMaster, at any length, amount and speed.

A path starts at the identity, which is the reference view's first frame, and is a set of camera-to-world matrices
in OpenCV axes. Other pose formats and a path language build on the same `CameraPath`.
"""

import math
from collections.abc import Collection
from dataclasses import dataclass, replace
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from mvtrack.config.errors import did_you_mean
from mvtrack.geometry.camera import Camera
from mvtrack.geometry.presets import PIVOT_M, PRESETS, RECAMMASTER_END, SPEEDS


@runtime_checkable
class CameraMotion(Protocol):
    """What every kind of camera path offers: poses and focal lengths over any number of frames."""

    @property
    def pivot_m(self) -> float: ...  # distance of the subject

    @property
    def label(self) -> str: ...

    def poses(self, num_frames: int) -> Float[Tensor, "T 4 4"]: ...

    def lens(self, num_frames: int) -> Float[Tensor, "T"]: ...


def moved_along(source: Camera, path: CameraMotion) -> Camera:
    """Cameras (T,) along a path that starts at the source's first camera, with that one's lens times the path's."""
    frames = source.shape[0]
    K = source.K[:1].repeat(frames, 1, 1)
    K[:, :2, :2] *= path.lens(frames).to(K)[:, None, None]
    return replace(source, c2w=source.c2w[:1] @ path.poses(frames).to(source.c2w), K=K)


_NEAR = 0.1  # of the subject's distance


def _known(kind: str, name: str, names: Collection[str]) -> str:
    if name not in names:
        raise ValueError(f"unknown {kind} {name!r}{did_you_mean(name, names)} Known: {', '.join(names)}")
    return name


@dataclass(frozen=True)
class CameraPath:
    """One preset with its knobs.

    amount: degrees for pan, tilt and arc, metres for zoom (a dolly, not a change of focal length) and translate;
        None takes ReCamMaster's. Signed: a negative amount is the opposite preset.
    pivot_m: distance of the point that translate and arc keep in the middle of the picture.
    look_at: False keeps the first frame's orientation in translate and arc.
    speed: how progress follows time, one of `SPEEDS`.
    start: fraction of the motion already done in the first frame (0 = starts at the reference's first frame).
    """

    preset: str
    amount: float | None = None
    pivot_m: float = PIVOT_M
    look_at: bool = True
    speed: str = "linear"
    start: float = 0.0

    def __post_init__(self) -> None:
        _known("camera preset", self.preset, PRESETS)
        _known("speed", self.speed, SPEEDS)
        if self.pivot_m <= 0:
            raise ValueError(f"pivot_m must be positive, got {self.pivot_m}")
        if self.amount is not None and not math.isfinite(self.amount):
            raise ValueError(f"amount must be a finite number, got {self.amount}")
        if not 0 <= self.start <= 1:
            raise ValueError(f"start must lie in [0, 1], got {self.start}")
        limit = 180 if self.preset.startswith("pan") else 90
        if PRESETS[self.preset].unit == "deg" and abs(self.full_amount) >= limit:
            raise ValueError(f"{self.preset} takes less than {limit} degrees, got {self.amount}")

    @property
    def full_amount(self) -> float:
        """The amount reached at the end, in the preset's unit."""
        return PRESETS[self.preset].amount if self.amount is None else self.amount

    @property
    def label(self) -> str:
        """A short name for files and titles."""
        return self.preset

    def lens(self, num_frames: int) -> Float[Tensor, "T"]:
        """Focal length over the source's: presets do not zoom with the lens."""
        return torch.ones(num_frames, dtype=torch.float64)

    def mirrored(self) -> "CameraPath":
        """The opposite path: left for right, up for down, in for out."""
        return replace(self, preset=PRESETS[self.preset].mirror)

    def poses(self, num_frames: int) -> Float[Tensor, "T 4 4"]:
        """Camera-to-world matrices (float64) at `num_frames` equally spaced times."""
        if num_frames < 1:
            raise ValueError(f"num_frames must be at least 1, got {num_frames}")
        time = torch.linspace(0, 1, num_frames, dtype=torch.float64) if num_frames > 1 else torch.ones(1).double()
        progress = self.start + (1 - self.start) * SPEEDS[self.speed](time)
        return self.poses_at(progress)

    def poses_at(self, progress: Float[Tensor, "T"]) -> Float[Tensor, "T 4 4"]:
        """Camera-to-world matrices at given fractions of the motion (0 = identity, 1 = full amount)."""
        kind, direction = self.preset.rsplit("_", 1)
        sign = 1.0 if direction in ("right", "up", "in") else -1.0
        done = sign * self.full_amount * progress
        zero = torch.zeros_like(done)
        if kind == "pan":
            return _pose(yaw=torch.deg2rad(done), pitch=zero)
        if kind == "tilt":
            return _pose(yaw=zero, pitch=torch.deg2rad(done))
        if kind == "zoom":
            return _pose(yaw=zero, pitch=zero, centre=torch.stack([zero, zero, done], -1))
        if kind == "translate":
            pitch = torch.atan2(-done, torch.full_like(done, self.pivot_m)) if self.look_at else zero
            return _pose(yaw=zero, pitch=pitch, centre=torch.stack([zero, -done, zero], -1))
        return self._arc(sign, progress)

    def _arc(self, sign: float, progress: Float[Tensor, "T"]) -> Float[Tensor, "T 4 4"]:
        # ReCamMaster moves along the chord to the circle's end point while looking at the pivot, not on the circle;
        # its file stops at 160/161 of the chord.
        angle = math.radians(self.full_amount)
        if self.amount is None:
            progress = progress * RECAMMASTER_END
        x = sign * self.pivot_m * math.sin(angle) * progress
        z = self.pivot_m * (1 - math.cos(angle)) * progress
        yaw = torch.atan2(-x, self.pivot_m - z) if self.look_at else torch.zeros_like(x)
        return _pose(yaw=yaw, pitch=torch.zeros_like(x), centre=torch.stack([x, torch.zeros_like(x), z], -1))


def _pose(
    yaw: Float[Tensor, "T"], pitch: Float[Tensor, "T"], centre: Float[Tensor, "T 3"] | None = None
) -> Float[Tensor, "T 4 4"]:
    """c2w from a turn to the right (yaw, about +y) and a turn upwards (pitch, about +x), radians."""
    cos_y, sin_y, cos_p, sin_p = yaw.cos(), yaw.sin(), pitch.cos(), pitch.sin()
    zero, one = torch.zeros_like(yaw), torch.ones_like(yaw)
    rows = [
        torch.stack([cos_y, sin_y * sin_p, sin_y * cos_p], -1),
        torch.stack([zero, cos_p, -sin_p], -1),
        torch.stack([-sin_y, cos_y * sin_p, cos_y * cos_p], -1),
    ]
    pose = torch.zeros(*yaw.shape, 4, 4, dtype=yaw.dtype)
    pose[..., :3, :3] = torch.stack(rows, -2)
    if centre is not None:
        pose[..., :3, 3] = centre
    pose[..., 3, 3] = one
    return pose


def passing_notes(path: CameraMotion, num_frames: int = 97) -> list[str]:
    """A note where a path runs through the subject, or so near that it fills the picture."""
    centre = path.poses(num_frames)[:, :3, 3]
    subject = centre.new_tensor([0.0, 0.0, path.pivot_m])
    step = centre[1:] - centre[:-1]
    along = ((subject - centre[:-1]) * step).sum(-1) / step.square().sum(-1).clamp_min(1e-12)
    nearest = centre[:-1] + along.clamp(0, 1)[:, None] * step
    distance = float((nearest - subject).norm(dim=-1).min())
    if distance > _NEAR * path.pivot_m:
        return []
    return [
        f"the path passes through the subject, {path.pivot_m:g} before the first camera (--subject-distance): by "
        f"{distance:.2g} at the nearest"
    ]
