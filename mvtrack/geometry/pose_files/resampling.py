"""A recorded path at another length and speed, the way ReDirector plays one for its released model.

The turns of all frames are measured about one common axis and added up again, so a path that turns about changing axes
comes out differently; paths of this project (trajectory.py) need none of this, being functions of time.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from mvtrack.geometry.rotation import rotation_matrix, rotation_vector

_STILL = 1e-6  # radians: less turning than this over the whole path has no axis


def resample_path(c2w: Float[Tensor, "N 4 4"], num_frames: int, speed: float = 1.0) -> Float[Tensor, "T 4 4"]:
    """`num_frames` poses along a path of N >= 3, every step `speed` times as large. Starts at the first pose.

    Raises ValueError for a path of fewer than three poses or fewer than two frames.
    """
    if len(c2w) < 3 or num_frames < 2:
        raise ValueError(f"resampling needs at least 3 poses and 2 frames, got {len(c2w)} and {num_frames}")
    c2w = c2w.double()
    rotation, centre = c2w[:, :3, :3], c2w[:, :3, 3]
    turns = rotation_vector(_nearest_rotation(rotation[:-1].mT @ rotation[1:]))  # (N - 1, 3)
    moves = (rotation[:-1].mT @ centre.diff(dim=0)[..., None])[..., 0]  # in the axes of the frame before
    axis = _common_axis(turns)
    turns = speed * _stretched((turns @ axis)[:, None], num_frames - 1)
    moves = speed * _stretched(moves, num_frames - 1)
    turned = rotation_matrix(turns.cumsum(0) * axis) @ rotation[0]
    path = torch.eye(4, dtype=torch.float64).repeat(num_frames, 1, 1)
    path[0] = c2w[0]
    path[1:, :3, :3] = turned
    path[1:, :3, 3] = centre[0] + (turned @ moves[..., None])[..., 0].cumsum(0)
    return path


def _common_axis(turns: Float[Tensor, "n 3"]) -> Float[Tensor, "3"]:
    """The direction of the whole turn; of the first step where turns cancel out; z where nothing turns."""
    for candidate in (turns.sum(0), turns[0]):
        if candidate.norm() > _STILL:
            return candidate / candidate.norm()
    return torch.tensor([0.0, 0.0, 1.0], dtype=turns.dtype)


def _stretched(values: Float[Tensor, "n c"], count: int) -> Float[Tensor, "m c"]:
    """Linear interpolation at `count` equally spaced places, ends included."""
    if count == 1:
        return values[:1]
    return F.interpolate(values.T[None], size=count, mode="linear", align_corners=True)[0].T


def _nearest_rotation(matrix: Float[Tensor, "n 3 3"]) -> Float[Tensor, "n 3 3"]:
    """Matrices with skewed rows become the nearest rotation. Perpendicular rows of nearly unit length stay, as in
    SciPy's conversion, which ReDirector's numbers come from; the difference is 1e-8.
    """
    eye = torch.eye(3, dtype=matrix.dtype)
    skewed = ((matrix @ matrix.mT - eye).abs() > 1e-12 + 1e-5 * eye).flatten(1).any(1)
    u, _, vh = torch.linalg.svd(matrix)
    return torch.where(skewed[:, None, None], u @ vh, matrix)
