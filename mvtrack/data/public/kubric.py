"""What Kubric's datasets share: cameras in Blender's axes, depth as the distance from the camera's centre.

`camera` of a metadata.json: positions (T, 3) and quaternions (T, 4), w x y z, camera to world, x right, y up, z back; K
normalised by the picture's size, with -f_y and -1 for these axes. Documented in kubric's own dataset definitions
(github.com/google-research/kubric, challenges/movi).
"""

from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from mvtrack.data.public.files import read_map, same_size, z_from_distance
from mvtrack.geometry.camera import Camera
from mvtrack.geometry.pose_files.geometry import axes_to_opencv, poses_of
from mvtrack.geometry.pose_files.parse import Fields, Place, read_json, side_px
from mvtrack.geometry.rotation import matrix_from_quaternion

SKY = 1000.0  # units: what lies farther is the dome's outside, of no depth
UNIT_LENGTH = 1e-3
_MAX_JSON = 64 << 20  # of many instances over many frames


def read_metadata(path: Path) -> tuple[Fields, tuple[int, int], float]:
    """A metadata.json's camera, the pictures' size (H, W) and frame rate."""
    document = Fields(read_json(path, _MAX_JSON), Place(str(path)))
    inner = Fields(document["metadata"], document.at("metadata"))
    width, height = (side_px(side, inner.at("resolution")) for side in inner.numbers("resolution", (2,)).tolist())
    rate = inner.number("frame_rate", 1, 1000) if "frame_rate" in inner else 12.0
    return Fields(document["camera"], document.at("camera")), (height, width), rate


def camera_of_metadata(camera: Fields, size: tuple[int, int]) -> Camera:
    """Cameras (T,) of `camera` for pictures of a size."""
    height, width = size
    K = camera.numbers("K", (3, 3)) * torch.tensor([1.0, -1, -1], dtype=torch.float64)
    if K[0, 0] <= 0 or K[1, 1] <= 0 or not torch.equal(K[2], K.new_tensor([0.0, 0, 1])):
        raise camera.at("K").error(f"expected [[f_x, 0, -c_x], [0, -f_y, -c_y], [0, 0, -1]], got {camera['K']}")
    K = torch.tensor([width, height, 1.0], dtype=torch.float64)[:, None] * K
    positions = camera.numbers("positions", (None, 3))
    return posed(positions, camera.numbers("quaternions", (len(positions), 4)), K, size, camera.place)


def posed(
    positions: Float[Tensor, "T 3"], wxyz: Float[Tensor, "T 4"], K: Float[Tensor, "3 3"], size: tuple[int, int],
    place: Place,
) -> Camera:  # fmt: skip
    """Cameras of Kubric's poses. K: in pixels."""
    odd = ((wxyz.norm(dim=-1) - 1).abs() > UNIT_LENGTH).nonzero()
    if len(odd):
        raise place.error(f"the quaternion of frame {int(odd[0])} has length {wxyz[odd[0, 0]].norm():.4g}, expected 1")
    c2w = axes_to_opencv(poses_of(matrix_from_quaternion(wxyz), positions), "opengl")
    return Camera(c2w, K.expand(len(c2w), 3, 3), size)


def read_depth(files: list[Path], camera: Camera, frames: int) -> Float[Tensor, "T H W"]:
    """z-depth of the first frames' tiffs, which hold distances."""
    distance = same_size([read_map(path, np.float32) for path in files[:frames]], camera.size, files[0].parent)
    known = distance.isfinite() & (distance > 0) & (distance < SKY)
    if not known.any():
        raise ValueError(f"{files[0].parent} holds no depth that is positive")
    return z_from_distance(torch.where(known, distance, 0.0), camera.K[:frames])


def numbered(folder: Path, stem: str, suffix: str, count: int | None = None) -> list[Path]:
    """Files stem_00000.suffix, … without a gap. count: how many there must be."""
    files = sorted(folder.glob(f"{stem}_*{suffix}"))
    expected = [f"{stem}_{i:05d}{suffix}" for i in range(len(files) if count is None else count)]
    if not files or [file.name for file in files[: len(expected)]] != expected:
        names = {file.name for file in files}
        lacks = next((name for name in expected if name not in names), f"{stem}_00000{suffix}")
        raise ValueError(f"{folder} lacks {lacks}")
    return files[: len(expected)]
