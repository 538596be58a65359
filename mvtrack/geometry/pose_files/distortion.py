"""Lens distortion of the Brown model, in OpenCV's order k1, k2, p1, p2, k3.

A `Camera` is a pinhole. Where a file has distortion it stands beside the camera, and pixels are moved with the
functions here. Source: D. C. Brown, "Decentering distortion of lenses" (1966), as in OpenCV's and COLMAP's OPENCV
model.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from mvtrack.geometry.camera import camera_rays

_NEWTON_STEPS = 30


@dataclass(frozen=True)
class Distortion:
    """Coefficients (k1, k2, p1, p2, k3) of the Brown model: one row for all frames (5,), or one a frame (T, 5)."""

    coefficients: Float[Tensor, "*shape 5"]

    def __post_init__(self) -> None:
        if self.coefficients.ndim not in (1, 2) or self.coefficients.shape[-1] != 5:
            raise ValueError(f"coefficients must be (5,) or (T, 5), got {tuple(self.coefficients.shape)}")

    @property
    def is_zero(self) -> bool:
        return not bool(self.coefficients.any())

    @staticmethod
    def unless_zero(coefficients: Tensor | None) -> "Distortion | None":
        """A distortion, or None for no coefficients or for zeros."""
        return None if coefficients is None or not bool(coefficients.any()) else Distortion(coefficients)

    def at(self, keys: Float[Tensor, "K"], times: Float[Tensor, "T"]) -> "Distortion":
        """Of the nearest of the key frames, for each time."""
        if self.coefficients.ndim == 1:
            return self
        return Distortion(self.coefficients[(times[:, None] - keys).abs().argmin(-1)])

    def per_frame(self, num_frames: int) -> Float[Tensor, "T 5"]:
        """Coefficients of every frame."""
        return self.coefficients.expand(num_frames, 5)


def distort(xy: Float[Tensor, "*any N 2"], distortion: Distortion) -> Float[Tensor, "*out N 2"]:
    """Ideal normalised image coordinates (x/z, y/z) to distorted ones.

    xy: (N, 2) or (T, N, 2); one row of coefficients a frame gives (T, N, 2).
    """
    x, y = xy.unbind(-1)
    k1, k2, p1, p2, k3 = distortion.coefficients[..., None, :].unbind(-1)
    r2 = x * x + y * y
    radial = 1 + r2 * (k1 + r2 * (k2 + r2 * k3))
    return torch.stack(
        [x * radial + 2 * p1 * x * y + p2 * (r2 + 2 * x * x), y * radial + p1 * (r2 + 2 * y * y) + 2 * p2 * x * y], -1
    )


def undistort(
    xy: Float[Tensor, "*any N 2"], distortion: Distortion
) -> tuple[Float[Tensor, "*out N 2"], Bool[Tensor, "*out N"]]:
    """Inverse of `distort` by Newton's method, and whether it was found.

    A strong distortion folds: far from the axis there may be no ideal point. There the second result is False and
    the coordinates are NaN.
    """
    target = xy.expand(*torch.broadcast_shapes(xy.shape, (*distortion.coefficients.shape[:-1], 1, 2)))
    ideal = target.clone()
    for _ in range(_NEWTON_STEPS):
        jacobian, determinant = _jacobian(ideal, distortion)
        residual = distort(ideal, distortion) - target
        a, b, c = jacobian
        step_x = (c * residual[..., 0] - b * residual[..., 1]) / determinant
        step_y = (a * residual[..., 1] - b * residual[..., 0]) / determinant
        ideal = ideal - torch.stack([step_x, step_y], -1)
        if not (torch.maximum(step_x.abs(), step_y.abs()) > 8 * torch.finfo(xy.dtype).eps).any():
            break
    (slope, _, _), determinant = _jacobian(ideal, distortion)
    error = (distort(ideal, distortion) - target).abs().amax(-1)
    tolerance = 64 * torch.finfo(xy.dtype).eps * (1 + target.abs().amax(-1))
    # Beyond the fold the picture is turned over: there the Jacobian is not positive definite.
    found = (error <= tolerance) & (determinant > 0) & (slope > 0)
    return torch.where(found[..., None], ideal, torch.full_like(ideal, torch.nan)), found


def _jacobian(xy: Tensor, distortion: Distortion) -> tuple[tuple[Tensor, Tensor, Tensor], Tensor]:
    """The symmetric Jacobian [[a, b], [b, c]] of `distort`, and its determinant."""
    x, y = xy.unbind(-1)
    k1, k2, p1, p2, k3 = distortion.coefficients[..., None, :].unbind(-1)
    r2 = x * x + y * y
    radial = 1 + r2 * (k1 + r2 * (k2 + r2 * k3))
    slope = 2 * (k1 + r2 * (2 * k2 + 3 * r2 * k3))  # d radial / d x = slope * x
    a = radial + slope * x * x + 2 * p1 * y + 6 * p2 * x
    b = slope * x * y + 2 * p1 * x + 2 * p2 * y
    c = radial + slope * y * y + 6 * p1 * y + 2 * p2 * x
    return (a, b, c), a * c - b * b


def distort_pixels(
    xy_px: Float[Tensor, "*any N 2"], K: Float[Tensor, "*shape 3 3"], distortion: Distortion
) -> Float[Tensor, "*out N 2"]:
    """Raster pixels of an ideal pinhole with these intrinsics to where the lens puts them."""
    return _pixels(distort(camera_rays(xy_px, K[..., None, :, :])[..., :2], distortion), K)


def undistort_pixels(
    xy_px: Float[Tensor, "*any N 2"], K: Float[Tensor, "*shape 3 3"], distortion: Distortion
) -> tuple[Float[Tensor, "*out N 2"], Bool[Tensor, "*out N"]]:
    """Raster pixels of the distorted picture to the ideal pinhole's, and whether that was found (see `undistort`)."""
    xy, found = undistort(camera_rays(xy_px, K[..., None, :, :])[..., :2], distortion)
    return _pixels(xy, K), found


def _pixels(xy: Float[Tensor, "*out N 2"], K: Float[Tensor, "*shape 3 3"]) -> Float[Tensor, "*out N 2"]:
    homogeneous = torch.cat([xy, torch.ones_like(xy[..., :1])], -1)
    return (homogeneous @ K.mT)[..., :2]


def largest_displacement_px(K: Float[Tensor, "T 3 3"], size: tuple[int, int], distortion: Distortion) -> float:
    """How far (pixels of `size`) the lens moves what an ideal pinhole would show at the picture's border; infinity
    where it shows something there that a pinhole cannot."""
    height, width = size
    across, down = torch.linspace(0, 1, 17, dtype=K.dtype)[:, None], torch.zeros(17, 1, dtype=K.dtype)
    edges = [torch.cat(pair, 1) for side in (down, down + 1) for pair in ((across, side), (side, across))]
    border = torch.cat(edges) * K.new_tensor([width, height])
    ideal, found = undistort_pixels(border, K, distortion)
    return float((ideal - border).norm(dim=-1).max()) if bool(found.all()) else float("inf")
