"""Measuring a virtual camera's turn and zoom back from pixels, by matching a warped reference to a frame."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from mvtrack.geometry.camera import Camera, camera_rays, pixel_grid
from mvtrack.geometry.trajectory import CameraPath
from mvtrack.geometry.warp import sample_bilinear
from mvtrack.metrics.image import gaussian_blur

_ROUNDS = 7
_STEPS = 5  # candidates per parameter and round
_LEAST_OVERLAP = 0.35


@dataclass(frozen=True)
class MeasuredTurn:
    pan_deg: float  # positive to the right
    tilt_deg: float  # positive upwards
    log_zoom: float  # log of the focal length over the reference's


def measure_turn(
    reference: Float[Tensor, "3 H W"], frame: Float[Tensor, "3 H W"], camera: Camera, pan_range_deg: float = 25.0,
    tilt_range_deg: float = 15.0, zoom_range: float = 0.6,
) -> MeasuredTurn:  # fmt: skip
    """The pan, tilt and zoom under which the reference looks most like `frame`.

    camera: the reference's, no leading shape. A coarse grid on blurred images, refined six times; candidates that
    show less than 35 % of the reference are not considered.
    """
    centre = torch.zeros(3)
    reach = torch.tensor([pan_range_deg, tilt_range_deg, zoom_range])
    for round_number in range(_ROUNDS):
        steps = 2 * _STEPS + 1 if round_number == 0 else _STEPS
        axes = [torch.linspace(-1, 1, steps) * r + c for r, c in zip(reach, centre, strict=True)]
        candidates = torch.cartesian_prod(*axes)
        sigma = max(0.7, 3.0 * 0.7**round_number)
        error = _mismatch(gaussian_blur(reference, sigma), gaussian_blur(frame, sigma), camera, candidates)
        centre = candidates[error.argmin()]
        reach = reach * (0.25 if round_number == 0 else 0.5)
    return MeasuredTurn(*centre.tolist())


def _mismatch(reference: Tensor, frame: Tensor, camera: Camera, candidates: Float[Tensor, "N 3"]) -> Float[Tensor, "N"]:
    pan = CameraPath("pan_right", amount=1.0).poses_at(candidates[:, 0].double())
    tilt = CameraPath("tilt_up", amount=1.0).poses_at(candidates[:, 1].double())
    K = camera.K.repeat(len(candidates), 1, 1)
    K[:, 0, 0] *= candidates[:, 2].exp()
    K[:, 1, 1] *= candidates[:, 2].exp()
    rays = camera_rays(pixel_grid(camera.size).flatten(0, 1), K[:, None]) @ (pan @ tilt).float()[:, :3, :3].mT
    xy = ((rays / rays[..., 2:].clamp_min(1e-6)) @ camera.K.mT)[..., :2].unflatten(1, camera.size)
    height, width = camera.size
    inside = ((xy >= 0).all(-1) & (xy[..., 0] < width) & (xy[..., 1] < height)).float()
    warped = sample_bilinear(reference.expand(len(candidates), -1, -1, -1), xy)
    error = ((warped - frame).square().mean(1) * inside).sum((1, 2)) / inside.sum((1, 2)).clamp_min(1)
    return torch.where(inside.mean((1, 2)) >= _LEAST_OVERLAP, error, torch.inf)
