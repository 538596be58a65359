"""Pinhole and orthographic cameras: one type, its geometry as plain functions, and Plücker maps for models.

Axes are OpenCV's (x right, y down, z forward); image coordinates are raster (docs/conventions.md): the pixel in
row i and column j covers [j, j+1) x [i, i+1) and has its centre at (j + 0.5, i + 0.5).
"""

from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

Projection = Literal["perspective", "orthographic"]


@dataclass(frozen=True)
class Camera:
    """Any number of cameras of one image size.

    c2w: camera-to-world, metres where `scale_known`. K: intrinsics in pixels of `size`. size: (H, W). projection: a
    pinhole's, K (X / Z, Y / Z, 1), or that of parallel rays, K (X, Y, 1), with K's focal lengths in pixels a unit.
    """

    c2w: Float[Tensor, "*shape 4 4"]
    K: Float[Tensor, "*shape 3 3"]
    size: tuple[int, int]
    scale_known: bool = False
    projection: Projection = "perspective"

    def __post_init__(self) -> None:
        if self.projection not in ("perspective", "orthographic"):
            raise ValueError(f"projection must be perspective or orthographic, got {self.projection!r}")
        if self.c2w.shape[-2:] != (4, 4) or self.K.shape[-2:] != (3, 3):
            raise ValueError(
                f"c2w must be (..., 4, 4) and K (..., 3, 3), got {tuple(self.c2w.shape)} and {tuple(self.K.shape)}"
            )
        if self.c2w.shape[:-2] != self.K.shape[:-2]:
            raise ValueError(
                f"c2w and K must have the same leading shape, got {tuple(self.c2w.shape[:-2])} and "
                f"{tuple(self.K.shape[:-2])}"
            )

    @property
    def shape(self) -> torch.Size:
        """The leading shape, usually (V, T) or (B, V, T)."""
        return self.c2w.shape[:-2]

    def __getitem__(self, index: Any) -> "Camera":
        return replace(self, c2w=self.c2w[index], K=self.K[index])

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> "Camera":
        """Move or cast both matrices."""
        return replace(self, c2w=self.c2w.to(device, dtype), K=self.K.to(device, dtype))

    def relative_to(self, origin_c2w: Float[Tensor, "*any 4 4"]) -> "Camera":
        """The same cameras in the coordinates of another camera (broadcast over the leading shape)."""
        return replace(self, c2w=relative_pose(origin_c2w, self.c2w))

    def scaled(self, factor: float | Float[Tensor, "*any"]) -> "Camera":
        """The same cameras in a world that is `factor` times larger."""
        c2w = self.c2w.clone()
        factor = torch.as_tensor(factor, dtype=c2w.dtype, device=c2w.device)
        c2w[..., :3, 3] *= factor[..., None]
        if self.projection == "perspective":
            return replace(self, c2w=c2w)
        K = self.K.clone()
        K[..., :2, :2] /= factor[..., None, None].to(K)
        return replace(self, c2w=c2w, K=K)

    def resized(self, size: tuple[int, int]) -> "Camera":
        """The same cameras after the image was scaled to `size` (H, W); aspect may change."""
        factors = [size[1] / self.size[1], size[0] / self.size[0], 1.0]
        return replace(self, K=self.K * self.K.new_tensor(factors)[:, None], size=(size[0], size[1]))

    def cropped(self, left: float, top: float, size: tuple[int, int]) -> "Camera":
        """The same cameras after cropping the image to `size` (H, W) at (left, top)."""
        K = self.K.clone()
        K[..., 0, 2] -= left
        K[..., 1, 2] -= top
        return replace(self, K=K, size=(size[0], size[1]))

    @staticmethod
    def stack(cameras: list["Camera"], dim: int = 0) -> "Camera":
        """Stack cameras of one image size along a new leading axis."""
        sizes = {camera.size for camera in cameras}
        if len(sizes) != 1:
            raise ValueError(f"cameras of different image sizes cannot be stacked: {sorted(sizes)}; resize them first")
        if len({camera.projection for camera in cameras}) > 1:
            raise ValueError("perspective and orthographic cameras cannot be stacked: keep their clips apart")
        return Camera(
            torch.stack([camera.c2w for camera in cameras], dim),
            torch.stack([camera.K for camera in cameras], dim),
            cameras[0].size,
            all(camera.scale_known for camera in cameras),
            cameras[0].projection,
        )


def require_perspective(camera: Camera, what: str) -> None:
    """Raise ValueError for orthographic cameras, whose rays do not meet in a centre."""
    if camera.projection != "perspective":
        raise ValueError(f"{what} needs perspective cameras, got orthographic ones")


def intrinsics_from_fov(horizontal_fov_deg: float, size: tuple[int, int]) -> Float[Tensor, "3 3"]:
    """K (pixels) of an ideal camera with square pixels and a centred principal point."""
    if not 1.0 <= horizontal_fov_deg <= 170.0:
        raise ValueError(f"horizontal field of view must lie in [1, 170] degrees, got {horizontal_fov_deg}")
    height, width = size
    focal_px = 0.5 * width / torch.tan(torch.deg2rad(torch.tensor(horizontal_fov_deg * 0.5, dtype=torch.float64)))
    return torch.tensor([[focal_px, 0, width / 2], [0, focal_px, height / 2], [0, 0, 1]], dtype=torch.float32)


def invert_pose(pose: Float[Tensor, "*shape 4 4"]) -> Float[Tensor, "*shape 4 4"]:
    """Inverse of a rigid transform (rotation transposed, not a general matrix inverse)."""
    rotation_t = pose[..., :3, :3].mT
    inverse = torch.zeros_like(pose)
    inverse[..., :3, :3] = rotation_t
    inverse[..., :3, 3] = -(rotation_t @ pose[..., :3, 3:])[..., 0]
    inverse[..., 3, 3] = 1
    return inverse


def relative_pose(
    origin_c2w: Float[Tensor, "*any 4 4"], c2w: Float[Tensor, "*shape 4 4"]
) -> Float[Tensor, "*shape 4 4"]:
    """Poses `c2w` seen in the coordinates of the camera `origin_c2w`."""
    return invert_pose(origin_c2w) @ c2w


def path_extent(c2w: Float[Tensor, "*shape 4 4"]) -> Float[Tensor, "*lead"]:
    """Largest distance of a path (last leading axis = frames) from its first camera centre, in the pose's unit."""
    centre = c2w[..., :3, 3]
    return (centre - centre[..., :1, :]).norm(dim=-1).amax(-1)


def pixel_grid(
    size: tuple[int, int], stride: int = 1, device: torch.device | str | None = None
) -> Float[Tensor, "h w 2"]:
    """Raster coordinates (x, y) of the centres of `stride` x `stride` cells that tile an image of `size` (H, W)."""
    height, width = size
    if height % stride or width % stride:
        raise ValueError(f"image size {height}x{width} is not divisible by the cell size {stride}")
    ys = (torch.arange(height // stride, device=device, dtype=torch.float32) + 0.5) * stride
    xs = (torch.arange(width // stride, device=device, dtype=torch.float32) + 0.5) * stride
    grid_y, grid_x = torch.meshgrid(ys, xs, indexing="ij")
    return torch.stack([grid_x, grid_y], -1)


def camera_rays(xy: Float[Tensor, "*points 2"], K: Float[Tensor, "*shape 3 3"]) -> Float[Tensor, "*out 3"]:
    """K^-1 (x, y, 1) in camera axes, not normalised (z = 1). xy broadcasts against the leading shape of K.

    The ray's direction where K is of a pinhole, X and Y of all its points where K is of an orthographic camera.
    """
    fx, fy = K[..., 0, 0], K[..., 1, 1]
    cx, cy, skew = K[..., 0, 2], K[..., 1, 2], K[..., 0, 1]
    y = (xy[..., 1] - cy) / fy
    x = (xy[..., 0] - cx - skew * y) / fx
    return torch.stack(torch.broadcast_tensors(x, y, torch.ones_like(x)), -1)


def project(
    points_world: Float[Tensor, "*any N 3"], camera: Camera
) -> tuple[Float[Tensor, "*shape N 2"], Float[Tensor, "*shape N"]]:
    """World points into every camera: raster pixels and z-depth (metres, negative behind the camera).

    Points nearer than 1e-6 to a pinhole's plane are projected as if they were at that depth.
    """
    rotation, centre = camera.c2w[..., :3, :3], camera.c2w[..., :3, 3]
    local = (points_world - centre[..., None, :]) @ rotation
    depth = local[..., 2]
    if camera.projection == "orthographic":
        flat = torch.cat([local[..., :2], torch.ones_like(depth)[..., None]], -1)
        return (flat @ camera.K.mT)[..., :2], depth
    safe = torch.where(depth.abs() < 1e-6, torch.full_like(depth, 1e-6), depth)
    homogeneous = (local / safe[..., None]) @ camera.K.mT
    return homogeneous[..., :2], depth


def unproject(
    xy: Float[Tensor, "*any N 2"], depth: Float[Tensor, "*shape N"], camera: Camera
) -> Float[Tensor, "*shape N 3"]:
    """Pixels with z-depth (metres along the optical axis) into the world. Inverse of `project`.

    xy may leave out leading axes that all cameras share.
    """
    rays = camera_rays(xy, camera.K[..., None, :, :])
    if camera.projection == "orthographic":
        flat, depth = torch.broadcast_tensors(rays, depth[..., None])
        local = torch.cat([flat[..., :2], depth[..., :1]], -1)
    else:
        local = rays * depth[..., None]
    return local @ camera.c2w[..., :3, :3].mT + camera.c2w[..., None, :3, 3]


def plucker_rays(camera: Camera, stride: int = 1) -> Float[Tensor, "*shape h w 6"]:
    """Plücker coordinates [d, m] of every pixel's (or `stride`-cell centre's) ray; MVTrack4Gen §5.1.

    d: unit direction in the world, m = o x d with o a point of the ray: the camera's centre, or of an orthographic
    camera the pixel's place in its plane. Shape (..., H / stride, W / stride, 6).
    """
    grid = pixel_grid(camera.size, stride, camera.K.device).to(camera.K.dtype)
    local = camera_rays(grid, camera.K[..., None, None, :, :])
    if camera.projection == "orthographic":
        place = torch.cat([local[..., :2], torch.zeros_like(local[..., :1])], -1)
        origin = torch.einsum("...ij,...hwj->...hwi", camera.c2w[..., :3, :3], place)
        origin = origin + camera.c2w[..., None, None, :3, 3]
        direction = camera.c2w[..., None, None, :3, 2].expand_as(origin)
    else:
        direction = torch.einsum("...ij,...hwj->...hwi", camera.c2w[..., :3, :3], local)
        direction = direction / direction.norm(dim=-1, keepdim=True)
        origin = camera.c2w[..., None, None, :3, 3].expand_as(direction)
    return torch.cat([direction, torch.linalg.cross(origin, direction)], -1)
