"""Depth for the second decoding, without learned weights: the reference's own, carried over, or planes swept through
the views of each moment.

Both views show one moment, so things that move are no trouble; places without texture are.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from mvtrack.geometry.camera import Camera
from mvtrack.geometry.plane_sweep import even_in_disparity, sweep
from mvtrack.geometry.splat import splat_depth
from mvtrack.models.decoder.epipolar_attention import nearest_views

NEAR, FAR, PLANES = 0.3, 8.0, 64  # in distances of the subject
_HALF_OBJECT = 0.6  # of an object's size: how far before and behind its centre planes lie
_WINDOW_PX = 7


def carried_depth(depth: Float[Tensor, "T H W"], camera: Camera) -> Float[Tensor, "V T H W"]:
    """z-depth of every view from that of the first, in the cameras' unit. camera: (V, T).

    What the first view does not show lies behind what it shows: holes take the farthest depth at their edge. Raises
    ValueError for depth that is unknown in all of a frame.
    """
    known = depth.isfinite() & (depth > 0)
    if not known.flatten(1).any(1).all():
        frame = int((~known.flatten(1).any(1)).nonzero()[0])
        raise ValueError(f"depth of frame {frame} is not positive and finite anywhere")
    depth = filled(depth.where(known, torch.nan))
    views = [depth]
    for view in range(1, camera.shape[0]):
        seen = [splat_depth(depth[t], camera[0, t], camera[view, t]) for t in range(len(depth))]
        views.append(filled(torch.stack(seen), depth.median()))
    return torch.stack(views)


def filled(depth: Float[Tensor, "T H W"], otherwise: float | Tensor = torch.nan) -> Float[Tensor, "T H W"]:
    """NaN taken from the farthest of its neighbours, again and again; a frame that is all NaN is `otherwise`."""
    empty = depth.isnan().flatten(1).all(1)
    depth = torch.where(empty[:, None, None], otherwise, depth)
    while depth[~empty].isnan().any():
        grown = F.max_pool2d(depth.nan_to_num(-torch.inf)[:, None], 3, 1, 1)[:, 0]
        depth = torch.where(depth.isnan() & grown.isfinite(), grown, depth)
    return depth


def stereo_depth(
    video: Float[Tensor, "V T 3 H W"], camera: Camera, subject_distance: float
) -> Float[Tensor, "V T H W"]:
    """z-depth of every view in the cameras' unit, from its nearest other view. camera: (V, T).

    Where both cameras stand at one place, depth has no effect on what they see and comes out as the first plane.
    """
    if len(video) < 2:
        raise ValueError("depth needs at least two views of each moment")
    z = even_in_disparity(NEAR * subject_distance, FAR * subject_distance, PLANES)
    depth = []
    for view in range(len(video)):
        other = nearest_views(camera, view)[0]
        pair = [view, other]
        frames = [sweep(video[pair, t], camera[pair, t], 0, [1], z, _WINDOW_PX) for t in range(video.shape[1])]
        depth.append(torch.stack(frames))
    return torch.stack(depth)


def object_depth(video: Float[Tensor, "V T 3 H W"], camera: Camera, size: float = 1.0) -> Float[Tensor, "V T H W"]:
    """z-depth of every view of an object of a `size` about the origin, from its two nearest other views."""
    if len(video) < 2:
        raise ValueError("depth needs at least two views of each moment")
    depth = []
    for view in range(len(video)):
        pair = [view, *nearest_views(camera, view)[:2]]
        others, frames = list(range(1, len(pair))), []
        for t in range(video.shape[1]):
            away = float(camera.c2w[view, t, :3, 3].norm())
            z = torch.linspace(away - _HALF_OBJECT * size, away + _HALF_OBJECT * size, PLANES)
            frames.append(sweep(video[pair, t], camera[pair, t], 0, others, z, _WINDOW_PX))
        depth.append(torch.stack(frames))
    return torch.stack(depth)
