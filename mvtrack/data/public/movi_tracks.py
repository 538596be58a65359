"""Exact point tracks of a MOVi video, by the rules of Kubric's `challenges/point_tracking` (TAP-Vid-Kubric).

Pixels of all frames are drawn, shared evenly among the objects and the background; each becomes a point by the exact
depth and moves as its rigid object does. Kubric takes objects' points from their coordinate images, which are these
points within 16 bits.
"""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor

from mvtrack.data.public.layout import PointTracks
from mvtrack.geometry.camera import Camera, project, unproject

NUM_TRACKS = 256
_STRIDE = 4  # of the grid that pixels are drawn from, in time and both directions; its origin is random
_MOST_OF_OBJECT = 0.1  # of an object's pixels on that grid
_DEPTH_MARGIN = 0.99  # a point is hidden where this share of its distance is beyond what is seen there
_SMOOTH, _ROUGH_NEIGHBOURS = 0.05, 2  # normals of more neighbours that differ by more come from a texture


@dataclass(frozen=True)
class RigidScene:
    """What the camera (T,) of a video sees. depth: z-depth. distance: from the camera's centre. ids: 0 is the static
    background, n the object n - 1. position, rotation: of the objects, which they carry to the world. normals: of the
    surfaces, in the world's axes."""

    camera: Camera
    depth: Float[Tensor, "T H W"]
    distance: Float[Tensor, "T H W"]
    ids: UInt8[Tensor, "T H W"]
    position: Float[Tensor, "O T 3"]
    rotation: Float[Tensor, "O T 3 3"]
    normals: Float[Tensor, "T H W 3"] | None = None


def track_points(scene: RigidScene, rng: np.random.Generator, num_tracks: int = NUM_TRACKS) -> PointTracks:
    """Tracks of one view, all of whose points are seen where they were drawn; fewer than asked for where pictures are
    so small that a tenth of their pixels do not suffice."""
    frame, row, column = _draw_pixels(scene.ids, num_tracks, rng)
    xy = torch.stack([column, row], -1).double() + 0.5
    at_pixel = scene.depth[frame, row, column].double()
    point = unproject(xy[:, None], at_pixel[:, None], scene.camera[frame])[:, 0]
    ids = scene.ids[frame, row, column].long()
    world = _carried(scene, point, ids, frame)
    xy, z = project(world, scene.camera)
    height, width = scene.camera.size
    inside = (z > 0) & (xy >= 0).all(-1) & (xy <= xy.new_tensor([width, height])).all(-1)
    visible = inside & ~_is_covered(scene, xy, world, ids) & ~_faces_away(scene, world, ids, (frame, row, column))
    visible[frame, torch.arange(len(frame))] = True  # a pixel's own point, whatever its neighbours are
    return PointTracks(xy.float()[None], visible[None], torch.ones(1, len(frame), dtype=torch.bool))


def _draw_pixels(
    ids: UInt8[Tensor, "T H W"], num_tracks: int, rng: np.random.Generator
) -> tuple[Int[Tensor, "N"], Int[Tensor, "N"], Int[Tensor, "N"]]:
    """Frames, rows and columns. The smallest object first: what it cannot give is shared by the rest."""
    start = [int(rng.integers(min(_STRIDE, side))) for side in ids.shape]
    grid = ids[tuple(slice(first, None, _STRIDE) for first in start)]
    pools = sorted(((grid == n).nonzero() for n in grid.unique()), key=len)
    chosen, left = [], num_tracks
    for i, pool in enumerate(pools):
        share = min(round(left / (len(pools) - i)), round(_MOST_OF_OBJECT * len(pool)))
        chosen.append(pool[torch.from_numpy(rng.choice(len(pool), share, replace=False))])
        left -= share
    frame, row, column = (torch.cat(chosen) * _STRIDE + torch.tensor(start)).unbind(-1)
    return frame, row, column


def _carried(
    scene: RigidScene, point: Float[Tensor, "N 3"], ids: Int[Tensor, "N"], frame: Int[Tensor, "N"]
) -> Float[Tensor, "T N 3"]:
    """World positions in all frames of points that are given at one frame each."""
    world = point.expand(len(scene.ids), -1, -1).clone()
    moving = ids > 0
    which, when = ids[moving] - 1, frame[moving]
    local = scene.rotation[which, when].mT @ (point[moving] - scene.position[which, when])[..., None]
    carried = (scene.rotation[which] @ local[:, None])[..., 0] + scene.position[which]
    world[:, moving] = carried.transpose(0, 1)
    return world


def _is_covered(
    scene: RigidScene, xy: Float[Tensor, "T N 2"], world: Float[Tensor, "T N 3"], ids: Int[Tensor, "N"]
) -> Bool[Tensor, "T N"]:
    """Whether all four pixels around a point are nearer than it, or all are of other objects."""
    height, width = scene.camera.size
    distance = (world - scene.camera.c2w[:, None, :3, 3]).norm(dim=-1)
    corner = (xy - 0.5).floor().nan_to_num(0, 0, 0).clamp(-2, max(height, width)).long()
    frame = torch.arange(len(xy))[:, None]
    around = []
    for dx, dy in ((0, 0), (1, 0), (0, 1), (1, 1)):
        column, row = (corner[..., 0] + dx).clamp(0, width - 1), (corner[..., 1] + dy).clamp(0, height - 1)
        around.append((scene.distance[frame, row, column], scene.ids[frame, row, column] == ids))
    farthest = torch.stack([seen for seen, _ in around]).amax(0)
    is_same = torch.stack([same for _, same in around]).any(0)
    return (farthest < _DEPTH_MARGIN * distance) | ~is_same


def _faces_away(
    scene: RigidScene, world: Float[Tensor, "T N 3"], ids: Int[Tensor, "N"],
    pixel: tuple[Int[Tensor, "N"], Int[Tensor, "N"], Int[Tensor, "N"]],
) -> Bool[Tensor, "T N"]:  # fmt: skip
    """Whether the surface at a point of an object is turned away from the camera; never where its normals are rough,
    nor where it would be turned away at its own pixel."""
    away = torch.zeros(world.shape[:2], dtype=torch.bool)
    if scene.normals is None:
        return away
    frame, row, column = pixel
    index = ((ids > 0) & _is_smooth(scene.normals)[frame, row, column]).nonzero()[:, 0]
    which, when = ids[index] - 1, frame[index]
    normal = scene.normals[when, row[index], column[index]].double()
    turn = scene.rotation[which] @ scene.rotation[which, when].mT[:, None]  # from the own frame to every other
    normal = (turn @ normal[:, None, :, None])[..., 0].transpose(0, 1)
    ray = world[:, index] - scene.camera.c2w[:, None, :3, 3]
    found = (normal * ray).sum(-1) > 0
    away[:, index] = found & ~found[when, torch.arange(len(index))]
    return away


def _is_smooth(normals: Float[Tensor, "T H W 3"]) -> Bool[Tensor, "T H W"]:
    height, width = normals.shape[1:3]
    padded = torch.nn.functional.pad(normals, (0, 0, 1, 1, 1, 1))
    corners = [(y, x) for y in (0, 2) for x in (0, 2)]
    differ = [(padded[:, y : y + height, x : x + width] - normals).norm(dim=-1) > _SMOOTH for y, x in corners]
    return torch.stack(differ).sum(0) <= _ROUGH_NEIGHBOURS
