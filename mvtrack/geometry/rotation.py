"""Rotations as matrices, quaternions and vectors (axis times angle), in any floating-point type."""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor


def quaternion_from_matrix(rotation: Float[Tensor, "*b 3 3"]) -> Float[Tensor, "*b 4"]:
    """Unit quaternions (w, x, y, z), w >= 0. The largest of the four components is the divisor (Shepperd 1978)."""
    xx, xy, xz, yx, yy, yz, zx, zy, zz = rotation.flatten(-2).unbind(-1)
    # 4 q q^T, row by row: each row is the same quaternion at another scale
    outer = torch.stack(
        [
            *(1 + xx + yy + zz, zy - yz, xz - zx, yx - xy),
            *(zy - yz, 1 + xx - yy - zz, xy + yx, xz + zx),
            *(xz - zx, xy + yx, 1 - xx + yy - zz, yz + zy),
            *(yx - xy, xz + zx, yz + zy, 1 - xx - yy + zz),
        ],
        -1,
    ).unflatten(-1, (4, 4))
    largest = outer.diagonal(dim1=-2, dim2=-1).argmax(-1)[..., None, None]
    quaternion = F.normalize(outer.gather(-2, largest.expand(*largest.shape[:-1], 4))[..., 0, :], dim=-1)
    return torch.where(quaternion[..., :1] < 0, -quaternion, quaternion)


def matrix_from_quaternion(wxyz: Float[Tensor, "*b 4"]) -> Float[Tensor, "*b 3 3"]:
    """Rotations of quaternions (w, x, y, z) of any length but 0 (Hamilton's convention)."""
    w, x, y, z = (wxyz / wxyz.norm(dim=-1, keepdim=True)).unbind(-1)
    return torch.stack(
        [
            *(1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)),
            *(2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)),
            *(2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)),
        ],
        -1,
    ).unflatten(-1, (3, 3))


def rotation_vector(rotation: Float[Tensor, "*b 3 3"]) -> Float[Tensor, "*b 3"]:
    """Axis times angle (radians, at most pi) of rotation matrices."""
    quaternion = quaternion_from_matrix(rotation)
    sine = quaternion[..., 1:].norm(dim=-1, keepdim=True)
    angle = 2 * torch.atan2(sine, quaternion[..., :1])
    return quaternion[..., 1:] * torch.where(sine < 1e-12, 2.0, angle / sine.clamp_min(1e-12))


def rotation_matrix(vector: Float[Tensor, "*b 3"]) -> Float[Tensor, "*b 3 3"]:
    """Inverse of `rotation_vector`."""
    x, y, z = vector.unbind(-1)
    zero = torch.zeros_like(x)
    cross = torch.stack([zero, -z, y, z, zero, -x, -y, x, zero], -1).unflatten(-1, (3, 3))
    return torch.linalg.matrix_exp(cross)
