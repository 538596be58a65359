"""Changes of convention, each written once: axes, direction of the pose, quaternions, pixel origin."""

import torch
from jaxtyping import Float
from torch import Tensor

from mvtrack.geometry.pose_files.parse import Place

# Camera axes by name: column j is axis j of that convention, in OpenCV's x right, y down, z forward.
AXES = {
    "opencv": [[1.0, 0, 0], [0, 1, 0], [0, 0, 1]],  # right, down, forward: also COLMAP, RealEstate10K, TUM
    "opengl": [[1.0, 0, 0], [0, -1, 0], [0, 0, -1]],  # right, up, back: also Blender, NeRF, nerfstudio
    "pytorch3d": [[-1.0, 0, 0], [0, -1, 0], [0, 0, 1]],  # left, up, forward
    "llff": [[0, 1.0, 0], [1, 0, 0], [0, 0, -1]],  # down, right, back
    "unreal": [[0, 1.0, 0], [0, 0, -1], [1, 0, 0]],  # forward, right, up: left-handed, and so is its world
}


def axes_to_opencv(c2w: Float[Tensor, "*shape 4 4"], axes: str) -> Float[Tensor, "*shape 4 4"]:
    """Camera-to-world matrices whose camera axes are `axes` (a name of `AXES`), with OpenCV's camera axes instead.

    The world stays, except for Unreal: its left-handed world (x forward, y right, z up) becomes x right, y down,
    z forward by the same mirror image, so that rotations keep determinant +1 and the identity stays the identity.
    """
    change = torch.eye(4, dtype=c2w.dtype)
    change[:3, :3] = change.new_tensor(AXES[axes])
    return change @ c2w @ change.mT if axes == "unreal" else c2w @ change.mT


def axes_from_opencv(c2w: Float[Tensor, "*shape 4 4"], axes: str) -> Float[Tensor, "*shape 4 4"]:
    """Inverse of `axes_to_opencv`."""
    change = torch.eye(4, dtype=c2w.dtype)
    change[:3, :3] = change.new_tensor(AXES[axes])
    return change.mT @ c2w @ change if axes == "unreal" else c2w @ change


def c2w_from_w2c(w2c: Float[Tensor, "T 4 4"], place: Place, what: str = "frame") -> Float[Tensor, "T 4 4"]:
    """Camera-to-world of world-to-camera matrices [R | t]: rotation R^T, centre -R^-1 t.

    A rotation that was rounded in its file projects every point exactly as the file does. Raises ValueError for a
    matrix without inverse.
    """
    rotation, offset = w2c[..., :3, :3], w2c[..., :3, 3:]
    singular = (torch.linalg.det(rotation).abs() < 1e-6).nonzero()
    if len(singular):
        raise place.error(f"{what} {int(singular[0])}: the rotation has determinant 0, expected a rotation")
    c2w = torch.zeros_like(w2c)
    c2w[..., :3, :3] = rotation.mT
    c2w[..., :3, 3:] = -torch.linalg.solve(rotation, offset)
    c2w[..., 3, 3] = 1
    return c2w


def w2c_from_c2w(c2w: Float[Tensor, "T 4 4"]) -> Float[Tensor, "T 4 4"]:
    """Inverse of `c2w_from_w2c`: R is the transposed rotation, t = -R centre."""
    rotation = c2w[..., :3, :3].mT
    w2c = torch.zeros_like(c2w)
    w2c[..., :3, :3] = rotation
    w2c[..., :3, 3:] = -(rotation @ c2w[..., :3, 3:])
    w2c[..., 3, 3] = 1
    return w2c


def pinhole_matrix(
    fx: Float[Tensor, "T"], fy: Float[Tensor, "T"], cx: Float[Tensor, "T"], cy: Float[Tensor, "T"]
) -> Float[Tensor, "T 3 3"]:
    """Intrinsics without skew."""
    K = torch.zeros(*fx.shape, 3, 3, dtype=fx.dtype)
    K[..., 0, 0], K[..., 1, 1], K[..., 0, 2], K[..., 1, 2], K[..., 2, 2] = fx, fy, cx, cy, 1
    return K


def poses_of(rotation: Float[Tensor, "T 3 3"], position: Float[Tensor, "T 3"]) -> Float[Tensor, "T 4 4"]:
    """Matrices [R | t] with their last row."""
    poses = torch.eye(4, dtype=rotation.dtype).repeat(len(rotation), 1, 1)
    poses[:, :3, :3], poses[:, :3, 3] = rotation, position
    return poses


def full_poses(poses: Float[Tensor, "T rows 4"]) -> Float[Tensor, "T 4 4"]:
    """3x4 matrices with their last row; 4x4 ones as they are."""
    return poses if poses.shape[-2] == 4 else poses_of(poses[..., :3], poses[..., 3])
