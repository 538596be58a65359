"""From views with known cameras to a coloured point cloud, and how far they are out of line with each other.

Matches between neighbouring views are triangulated with the cameras as they are. Views that show one scene to the pixel
project their points back to where these were matched; where they do not, the residual says by how much (Depth Guided
Decoder, figure 5, in numbers).
"""

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from mvtrack.files.atomic_io import write_aside
from mvtrack.geometry.camera import Camera, project, unproject
from mvtrack.geometry.warp import sample_nearest
from mvtrack.metrics.camera_accuracy import rotation_angle
from mvtrack.metrics.view_matches import matched_points

_BESIDE = 2  # views that each is matched with, the nearest
_WRONG_PX = 4.0  # a match whose residual is larger is a wrong one, and no point
_LEAST_ANGLE_DEG = 1.0  # between rays; points of narrower ones could lie anywhere
_FARTHEST_TURN_DEG = 100.0  # views of opposite sides match by chance alone


@dataclass(frozen=True)
class PointCloud:
    """points: in the cameras' world. residual_px: of each, the mean distance of its projections from where it was
    matched. matches: all that were found, wrong ones included."""

    points: Float[Tensor, "N 3"]
    colours: UInt8[Tensor, "N 3"]
    residual_px: Float[Tensor, "N"]
    matches: int

    def record(self) -> dict:
        """Counts, and the residual's mean and median in pixels; None without points."""
        some = len(self.points) > 0
        return {
            "points": len(self.points), "matches": self.matches,
            "residual_px": round(float(self.residual_px.mean()), 4) if some else None,
            "median_residual_px": round(float(self.residual_px.median()), 4) if some else None,
        }  # fmt: skip


def triangulated(pictures: Float[Tensor, "V 3 H W"], camera: Camera) -> PointCloud:
    """Points of views in [-1, 1] with cameras (V,), perspective or orthographic. Raises ValueError for a single one."""
    if len(pictures) < 2:
        raise ValueError("points are triangulated from two views or more")
    parts, count = [], 0
    for first, second in _pairs(camera):
        matched = matched_points(pictures[first], pictures[second], detected=True)
        here, there = (torch.from_numpy(x).float() for x in matched)
        count += len(here)
        points, residual, usable = _meeting(here, camera[first], there, camera[second])
        grid = here[None, :, None]
        colours = sample_nearest(pictures[first][None], grid)[0, :, :, 0].T
        parts.append((points[usable], colours[usable], residual[usable]))
    if not parts:
        return PointCloud(torch.zeros(0, 3), torch.zeros(0, 3, dtype=torch.uint8), torch.zeros(0), 0)
    points, colours, residual = (torch.cat(x) for x in zip(*parts, strict=True))
    return PointCloud(points, ((colours + 1) * 127.5).round().clamp(0, 255).byte(), residual, count)


def write_ply(path: Path, cloud: PointCloud) -> None:
    """A binary PLY file of coloured points."""
    fields = [*((axis, "<f4") for axis in "xyz"), *((colour, "u1") for colour in ("red", "green", "blue"))]
    rows = np.zeros(len(cloud.points), fields)
    for column, values in zip(rows.dtype.names, [*cloud.points.T, *cloud.colours.T], strict=True):
        rows[column] = values.numpy()
    kinds = {"<f4": "float", "|u1": "uchar"}
    properties = "".join(f"property {kinds[rows.dtype[name].str]} {name}\n" for name in rows.dtype.names)
    head = f"ply\nformat binary_little_endian 1.0\nelement vertex {len(rows)}\n{properties}end_header\n"
    write_aside(path, lambda aside: aside.write_bytes(head.encode() + rows.tobytes()))


def _pairs(camera: Camera) -> list[tuple[int, int]]:
    """Each view with those that stand nearest to it and look about the same way."""
    centre, rotation = camera.c2w[:, :3, 3].double(), camera.c2w[:, :3, :3].double()
    pairs = set()
    for view in range(len(centre)):
        away = (centre - centre[view]).norm(dim=-1)
        turn = torch.rad2deg(rotation_angle(rotation[view].expand_as(rotation), rotation))
        order = [i for i in away.argsort(stable=True).tolist() if i != view and turn[i] < _FARTHEST_TURN_DEG]
        pairs |= {(min(view, other), max(view, other)) for other in order[:_BESIDE]}
    return sorted(pairs)


def _meeting(
    here: Float[Tensor, "n 2"], first: Camera, there: Float[Tensor, "n 2"], second: Camera
) -> tuple[Float[Tensor, "n 3"], Float[Tensor, "n"], Tensor]:
    """Where rays of two cameras (no leading shape) come nearest to each other, the residual in pixels, and which of
    these are points."""
    (a, u), (b, v) = _rays(here, first), _rays(there, second)
    across = (u * v).sum(-1)
    sine = (1 - across.square()).clamp_min(1e-12)
    gap = b - a
    along_u = ((gap * u).sum(-1) - (gap * v).sum(-1) * across) / sine
    along_v = ((gap * u).sum(-1) * across - (gap * v).sum(-1)) / sine
    points = (a + along_u[:, None] * u + b + along_v[:, None] * v) / 2
    off, in_front = [], torch.ones(len(points), dtype=torch.bool)
    for xy, camera in ((here, first), (there, second)):
        at, z = project(points, camera.to(dtype=points.dtype))
        off.append((at - xy).norm(dim=-1))
        in_front &= z > 0
    residual = torch.stack(off).mean(0)
    wide = sine.sqrt() > math.sin(math.radians(_LEAST_ANGLE_DEG))
    return points.float(), residual.float(), in_front & wide & (residual < _WRONG_PX)


def _rays(xy: Float[Tensor, "n 2"], camera: Camera) -> tuple[Float[Tensor, "n 3"], Float[Tensor, "n 3"]]:
    """A point of each pixel's ray, and its direction; float64."""
    camera = camera.to(dtype=torch.float64)
    near, far = (unproject(xy.double(), torch.full((len(xy),), z, dtype=torch.float64), camera) for z in (1.0, 2.0))
    return near, torch.nn.functional.normalize(far - near, dim=-1)
