"""Virtual pan-tilt-zoom pairs: two differently turned and zoomed pinhole views cut out of one wide video.

Rotation-only geometry is a homography, so for any real footage the same-time relative camera, the correspondences
and the target video are exact. The source's own motion and its absolute focal length are nominal.
"""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from mvtrack.data.clip import Clip
from mvtrack.geometry.camera import Camera, camera_rays, intrinsics_from_fov, pixel_grid
from mvtrack.geometry.trajectory import CameraPath


@dataclass(frozen=True)
class PanTiltZoom:
    """Direction and zoom of a virtual camera over time, relative to the wide camera; degrees and a focal ratio."""

    pan_deg: Float[Tensor, "T"]
    tilt_deg: Float[Tensor, "T"]
    zoom: Float[Tensor, "T"]  # focal length over that of the wide camera scaled to the same width

    @staticmethod
    def ramp(begin: tuple[float, float, float], end: tuple[float, float, float], num_frames: int) -> "PanTiltZoom":
        """Even motion between two (pan, tilt, zoom) settings; zoom changes by an even factor."""
        u = torch.linspace(0, 1, num_frames, dtype=torch.float64)
        pan, tilt = (b + (e - b) * u for b, e in zip(begin[:2], end[:2], strict=True))
        return PanTiltZoom(pan, tilt, begin[2] * (end[2] / begin[2]) ** u)

    def camera(self, wide_fov_deg: float, size: tuple[int, int]) -> Camera:
        """The virtual cameras (T,) for output images of `size` (H, W); the wide camera is the world."""
        pan = CameraPath("pan_right", amount=1.0).poses_at(self.pan_deg)
        tilt = CameraPath("tilt_up", amount=1.0).poses_at(self.tilt_deg)
        K = intrinsics_from_fov(wide_fov_deg, size).double().repeat(len(self.zoom), 1, 1)
        K[:, 0, 0] *= self.zoom
        K[:, 1, 1] *= self.zoom
        return Camera((pan @ tilt).float(), K.float(), size)


def wide_coordinates(
    xy: Float[Tensor, "*any N 2"], camera: Camera, wide_K: Float[Tensor, "3 3"]
) -> Float[Tensor, "*B N 2"]:
    """Where pixels of virtual cameras lie in the wide image (raster pixels)."""
    rays = camera_rays(xy, camera.K[..., None, :, :]) @ camera.c2w[..., :3, :3].mT
    return ((rays / rays[..., 2:]) @ wide_K.mT)[..., :2]


def fits(path: PanTiltZoom, wide_fov_deg: float, wide_size: tuple[int, int], size: tuple[int, int]) -> bool:
    """Whether the virtual views stay inside the wide image in every frame."""
    height, width = size
    corners = torch.tensor([[0.0, 0], [width, 0], [0, height], [width, height]])
    xy = wide_coordinates(corners, path.camera(wide_fov_deg, size), intrinsics_from_fov(wide_fov_deg, wide_size))
    return bool((xy >= 0).all() and (xy[..., 0] <= wide_size[1]).all() and (xy[..., 1] <= wide_size[0]).all())


def cut(
    wide: Float[Tensor, "T 3 H W"], path: PanTiltZoom, wide_fov_deg: float, size: tuple[int, int]
) -> Float[Tensor, "T 3 h w"]:
    """Render the virtual view, averaging over each output pixel's area. Raises ValueError where it leaves the image."""
    wide_size = (wide.shape[-2], wide.shape[-1])
    if not fits(path, wide_fov_deg, wide_size, size):
        raise ValueError(
            f"the virtual camera leaves the {wide_size[0]}x{wide_size[1]} image: turn less or zoom in more"
        )
    camera = path.camera(wide_fov_deg, size)
    samples = max(1, math.ceil(wide_size[1] / (size[1] * float(path.zoom.min())) / 1.5))
    fine = camera.resized((size[0] * samples, size[1] * samples))
    grid = pixel_grid(fine.size).flatten(0, 1)
    wide_K = intrinsics_from_fov(wide_fov_deg, wide_size)
    out = []
    for t in range(len(wide)):
        xy = wide_coordinates(grid, fine[t], wide_K)
        uv = 2 * xy / xy.new_tensor([wide_size[1], wide_size[0]]) - 1
        image = F.grid_sample(
            wide[t : t + 1], uv.view(1, *fine.size, 2), mode="bilinear", padding_mode="border", align_corners=False
        )
        out.append(F.avg_pool2d(image, samples)[0])
    return torch.stack(out)


def pan_tilt_zoom_clip(
    wide: Float[Tensor, "T 3 H W"], reference: PanTiltZoom, target: PanTiltZoom, wide_fov_deg: float,
    size: tuple[int, int], fps: float = 30.0, key: str = "",
) -> Clip:  # fmt: skip
    """Reference and target view of the same footage. Depth is that of a unit sphere, exact for pure rotations."""
    paths = (reference, target)
    camera = Camera.stack([p.camera(wide_fov_deg, size) for p in paths])
    rays = camera_rays(pixel_grid(size), camera.K[..., None, None, :, :])
    return Clip(
        torch.stack([cut(wide, p, wide_fov_deg, size) for p in paths]),
        camera,
        fps=fps,
        key=key,
        depth=1 / rays.norm(dim=-1),
    )
