"""Depth from a moving camera without any learned weights: fronto-parallel planes swept through pairs of frames.

Takes the scene as static, so moving things come out wrong; that is what an estimate of this kind is worth.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from mvtrack.geometry.camera import Camera, pixel_grid, project, unproject
from mvtrack.geometry.warp import sample_bilinear

_NEAREST_BASELINES, _FARTHEST_BASELINES = 3.0, 300.0  # depth range, in distances between the two cameras
_OUTSIDE = 1.0  # cost of a pixel that leaves the other picture; values lie in [-1, 1]


def plane_sweep_depth(
    video: Float[Tensor, "T 3 H W"], camera: Camera, planes: int = 48, reach: int = 8, window_px: int = 5
) -> Float[Tensor, "T H W"]:
    """z-depth of every frame in the cameras' unit. camera: (T,), exact or estimated.

    Each frame is compared with the frames up to `reach` before and after it whose camera is farthest away; the cost of
    a plane is the smaller of both mean absolute differences over a window, the best plane wins, a median filter
    follows. Raises ValueError when no frame has another with a camera elsewhere.
    """
    if camera.shape != (len(video),):
        raise ValueError(f"camera must be ({len(video)},), got {tuple(camera.shape)}")
    centre = camera.c2w[:, :3, 3]
    extent = (centre - centre[0]).norm(dim=-1).max()
    if extent < 1e-6:
        raise ValueError("the camera does not move: depth needs parallax")
    depth = []
    for t in range(len(video)):
        others = [_farthest(centre, t, range(max(0, t - reach), t)), _farthest(centre, t, range(t + 1, t + 1 + reach))]
        pairs = [o for o in others if o is not None and (centre[o] - centre[t]).norm() > 0.02 * extent]
        if not pairs:
            pairs = [int((centre - centre[t]).norm(dim=-1).argmax())]
        baseline = max(float((centre[o] - centre[t]).norm()) for o in pairs)
        z = even_in_disparity(_NEAREST_BASELINES * baseline, _FARTHEST_BASELINES * baseline, planes)
        depth.append(sweep(video, camera, t, pairs, z, window_px))
    return torch.stack(depth)


def even_in_disparity(near: float, far: float, planes: int) -> Float[Tensor, "planes"]:
    """Depths from near to far."""
    return 1 / torch.linspace(1 / near, 1 / far, planes)


def _farthest(centre: Float[Tensor, "T 3"], t: int, candidates: range) -> int | None:
    there = [o for o in candidates if o < len(centre)]
    return max(there, key=lambda o: float((centre[o] - centre[t]).norm())) if there else None


def sweep(
    video: Float[Tensor, "T 3 H W"], camera: Camera, t: int, others: list[int], z: Float[Tensor, "planes"],
    window_px: int = 5,
) -> Float[Tensor, "H W"]:  # fmt: skip
    """Depth of picture t: at each pixel that of the planes z at which some other picture looks most alike."""
    planes, (height, width) = len(z), camera.size
    grid = pixel_grid(camera.size).flatten(0, 1)
    points = unproject(grid, z[:, None].expand(-1, len(grid)), camera[t])  # (planes, HW, 3)
    costs = []
    for other in others:
        xy, seen_z = project(points, camera[other])
        inside = (xy >= 0).all(-1) & (xy[..., 0] < width) & (xy[..., 1] < height) & (seen_z > 0)
        warped = sample_bilinear(video[other].expand(planes, -1, -1, -1), xy.view(planes, height, width, 2))
        cost = (warped - video[t]).abs().mean(1)  # (planes, H, W)
        costs.append(torch.where(inside.view(planes, height, width), cost, _OUTSIDE))
    smooth = [F.avg_pool2d(_padded(cost[:, None], window_px), window_px, 1)[:, 0] for cost in costs]
    best = torch.stack(smooth).amin(0).argmin(0).float()
    steps = _padded(best[None, None], window_px).unfold(2, window_px, 1).unfold(3, window_px, 1)
    return z[steps.flatten(4).median(-1).values[0, 0].long()]


def _padded(maps: Tensor, window_px: int) -> Tensor:
    return F.pad(maps, [window_px // 2] * 4, mode="replicate")
