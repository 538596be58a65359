"""PRoPE, projective positional encoding (Li et al. 2025, "Cameras as Relative Positional Encoding").

Half of every head's channels, four at a time, are transformed by the 4x4 projection of the token's camera, so that
query i and key j meet through P_i P_j^-1 alone: where the world's axes lie is lost, how the views lie to each other is
there without being learned. Values and the output are transformed alike. The other channels keep their RoPE.
"""

from typing import NamedTuple

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor

from mvtrack.data.clip import TEMPORAL_STRIDE
from mvtrack.geometry.camera import Camera, require_perspective


class CameraMatrices(NamedTuple):
    """What row vectors of queries, of keys and values, and of attention's output are multiplied with, M = views x
    frames."""

    query: Float[Tensor, "B M 4 4"]
    key: Float[Tensor, "B M 4 4"]
    output: Float[Tensor, "B M 4 4"]


def projections(camera: Camera) -> Float[Tensor, "B V f 4 4"]:
    """World to image, homogeneous, at the latent frames of cameras (B, V, T).

    The image is 1 wide and 1 high, its centre is 0. Lengths are the camera's unit: bring it to the model's scale first
    (`model_cameras`). Raises ValueError for cameras without perspective.
    """
    require_perspective(camera, "model.dit.camera_encoding prope")
    camera = camera[:, :, ::TEMPORAL_STRIDE]
    height, width = camera.size
    K = torch.zeros_like(camera.c2w, dtype=torch.float64)
    K[..., :3, :3] = camera.K.double() / camera.K.new_tensor([width, height, 1]).double()[:, None]
    K[..., :2, 2] -= 0.5
    K[..., 3, 3] = 1
    return (K @ torch.linalg.inv(camera.c2w.double())).to(camera.c2w.dtype)


def camera_matrices(projection: Float[Tensor, "B V f 4 4"]) -> CameraMatrices:
    """A query row times P, a key row times P^-T: their product is q P_i P_j^-1 k."""
    P = projection.flatten(1, 2)
    return CameraMatrices(P, torch.linalg.inv(P).mT.contiguous(), P.mT.contiguous())


def camera_channels(head_dim: int) -> int:
    """Of a head's channels, how many the projections transform: half, in fours."""
    return head_dim // 8 * 4


def apply_projection(x: Float[Tensor, "B N H d"], matrix: Float[Tensor, "B M 4 4"]) -> Float[Tensor, "B N H d"]:
    """Multiply the first `camera_channels` of every head with the token's matrix. N is a multiple of M, tokens of a
    frame stand together. Computed in float32, returned in x's dtype."""
    turned, rest = x.split([camera_channels(x.shape[-1]), x.shape[-1] - camera_channels(x.shape[-1])], -1)
    rows = rearrange(turned.to(matrix.dtype), "b (m n) h (c k) -> b m (n h c) k", m=matrix.shape[1], k=4)
    with torch.autocast(x.device.type, enabled=False):
        rows = rows @ matrix
    heads = {"h": x.shape[2], "c": turned.shape[-1] // 4}
    return torch.cat([rearrange(rows, "b m (n h c) k -> b (m n) h (c k)", **heads).to(x.dtype), rest], -1)
