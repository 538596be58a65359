"""Exact point tracks of rendered scenes: points fixed to surfaces, followed through time and views."""

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from mvtrack.data.synthetic.renderer import FIRST_OBJECT, Render, cast
from mvtrack.data.synthetic.scene import Scene
from mvtrack.geometry.camera import Camera, project, unproject
from tracking_head import Tracks

_VISIBLE_TOLERANCE = 1e-3  # relative depth by which a surface may lie before its own point


def sample_tracks(
    scene: Scene, camera: Camera, render: Render, num_points: int, rng: np.random.Generator
) -> tuple[Tracks, Float[Tensor, "T N 3"], Int[Tensor, "N"]]:
    """Points picked on visible surfaces of random views and frames, half of them on objects where there are any.

    Returns their tracks, world positions over time and surface ids.
    """
    xy, view, frame = _pick_pixels(render, num_points, rng)
    chosen = camera[view, frame]
    # one pixel a camera: the batch axis is the point axis
    depth = render.depth[view, frame, xy[:, 1].long(), xy[:, 0].long()]
    point = unproject(xy[:, None], depth[:, None], chosen)[:, 0]
    surface = render.ids[view, frame, xy[:, 1].long(), xy[:, 0].long()].long()
    world = carry_points(scene, point, surface, frame)
    return track_points(scene, camera, world, surface), world, surface


def _pick_pixels(render: Render, num_points: int, rng: np.random.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """Pixel centres (N, 2), views and frames to place points at."""
    ids = render.ids.flatten()
    on_object = (ids >= FIRST_OBJECT).nonzero()[:, 0].numpy()
    elsewhere = (ids < FIRST_OBJECT).nonzero()[:, 0].numpy()
    half = num_points // 2 if len(on_object) else 0
    pools = [(on_object, half), (elsewhere if len(elsewhere) else on_object, num_points - half)]
    flat = np.concatenate([rng.choice(pool, count) for pool, count in pools if count])
    view, frame, row, column = np.unravel_index(flat, render.ids.shape)
    xy = torch.from_numpy(np.stack([column, row], -1)).float() + 0.5
    return xy, torch.from_numpy(view), torch.from_numpy(frame)


def carry_points(
    scene: Scene, point: Float[Tensor, "N 3"], surface: Int[Tensor, "N"], frame: Int[Tensor, "N"]
) -> Float[Tensor, "T N 3"]:
    """World positions over all frames of points given at one frame each; they move with their object."""
    world = point.expand(scene.num_frames, -1, -1).clone()
    moving = (surface >= FIRST_OBJECT).nonzero()[:, 0]
    which, when = surface[moving] - FIRST_OBJECT, frame[moving]
    local = scene.rotation[when, which].mT @ (point[moving] - scene.position[when, which])[..., None]
    world[:, moving] = (scene.rotation[:, which] @ local)[..., 0] + scene.position[:, which]
    return world


def track_points(scene: Scene, camera: Camera, world: Float[Tensor, "T N 3"], surface: Int[Tensor, "N"]) -> Tracks:
    """Project moving points into all cameras (V, T); visibility by a ray cast against the whole scene."""
    views, frames = camera.shape
    xy, depth = project(world.expand(views, -1, -1, -1), camera)
    height, width = camera.size
    inside = (xy >= 0).all(-1) & (xy[..., 0] < width) & (xy[..., 1] < height) & (depth > 0)
    visible = torch.zeros_like(inside)
    for v in range(views):
        origin = camera.c2w[v, :, :3, 3]
        direction = (world - origin[:, None]).permute(2, 0, 1).contiguous()  # the point itself lies at t = 1
        hits = cast(scene, origin, direction, torch.arange(frames))
        first = (hits.t > 1 - _VISIBLE_TOLERANCE) | ((hits.surface == surface) & (hits.t > 1 - 10 * _VISIBLE_TOLERANCE))
        visible[v] = inside[v] & first
    return Tracks(xy, visible, (depth > 0).any(1))
