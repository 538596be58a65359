"""Depth for the second decoding, without learned weights: that of views that have it, carried over, or planes swept
through the views of each moment.

All views show one moment, so things that move are no trouble; places without texture are.
"""

from collections.abc import Callable, Mapping

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from mvtrack.geometry.camera import Camera
from mvtrack.geometry.plane_sweep import even_in_disparity, sweep
from mvtrack.geometry.splat import splat_depth
from mvtrack.models.decoder.scene import nearest_views

NEAR, FAR, PLANES = 0.3, 8.0, 64  # in distances of the subject
_HALF_OBJECT = 0.6  # of an object's size: how far before and behind its centre planes lie
_OTHERS = 2  # nearest views that planes are swept through
_WINDOW_PX = 7
_FROM_SUBJECT, _FROM_BASELINE = 30.0, 300.0  # times that depth is off only where its unit is another


def carried_depth(known: Mapping[int, Float[Tensor, "T H W"]], camera: Camera) -> Float[Tensor, "V T H W"]:
    """z-depth of every view from that of some, in the cameras' unit. known: by the view's number. camera: (V, T).

    What the views with depth do not show lies behind what they show: holes take the farthest depth at their edge.
    Raises ValueError for depth that is unknown in all of a frame.
    """
    own = {}
    for view, depth in known.items():
        usable = depth.isfinite() & (depth > 0)
        if not usable.flatten(1).any(1).all():
            frame = int((~usable.flatten(1).any(1)).nonzero()[0])
            raise ValueError(f"depth of frame {frame} is not positive and finite anywhere")
        own[view] = filled(depth.where(usable, torch.nan))
    middle = torch.cat([depth.flatten() for depth in own.values()]).median()
    views = []
    for view in range(camera.shape[0]):
        if view in own:
            views.append(own[view])
            continue
        seen = [
            torch.stack([splat_depth(depth[t], camera[source, t], camera[view, t]) for t in range(len(depth))])
            for source, depth in own.items()
        ]
        nearest = torch.stack(seen).nan_to_num(torch.inf).amin(0)
        views.append(filled(torch.where(nearest.isfinite(), nearest, torch.nan), middle))
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
    """z-depth of every view in the cameras' unit, from its nearest other views. camera: (V, T).

    Where cameras stand at one place, depth has no effect on what they see and comes out as the first plane.
    """
    z = even_in_disparity(NEAR * subject_distance, FAR * subject_distance, PLANES)
    return _swept(video, camera, lambda view, t: z)


def object_depth(video: Float[Tensor, "V T 3 H W"], camera: Camera, size: float = 1.0) -> Float[Tensor, "V T H W"]:
    """z-depth of every view of an object of a `size` about the origin, from its two nearest other views."""

    def planes(view: int, t: int) -> Float[Tensor, "planes"]:
        away = float(camera.c2w[view, t, :3, 3].norm())
        return torch.linspace(away - _HALF_OBJECT * size, away + _HALF_OBJECT * size, PLANES)

    return _swept(video, camera, planes)


def _swept(video: Float[Tensor, "V T 3 H W"], camera: Camera, planes: Callable[[int, int], Tensor]) -> Tensor:
    """By the planes, (N,) z-depths, of each view and moment."""
    if len(video) < 2:
        raise ValueError("depth needs at least two views of each moment")
    depth = []
    for view in range(len(video)):
        pair = [view, *nearest_views(camera, view)[:_OTHERS]]
        others = list(range(1, len(pair)))
        frames = [
            sweep(video[pair, t], camera[pair, t], 0, others, planes(view, t), _WINDOW_PX)
            for t in range(video.shape[1])
        ]
        depth.append(torch.stack(frames))
    return torch.stack(depth)


def refuse_wrong_unit(depth: Float[Tensor, "*any"], camera: Camera, subject_distance: float | None, name: str) -> None:
    """Raise ValueError for depth in another unit than the cameras', called `name`: its median is far from the subject's
    distance or, where nobody says that, from how far the cameras stand apart."""
    known, centres = depth[depth.isfinite() & (depth > 0)], camera.c2w[..., :3, 3].reshape(-1, 3)
    if subject_distance is not None:
        measure, limit, what = subject_distance, _FROM_SUBJECT, "the subject is at"
    else:
        measure, limit, what = float(torch.cdist(centres, centres).max()), _FROM_BASELINE, "the cameras stand apart by"
    middle = float(known.median()) if len(known) else measure
    if measure > 0 and not 1 / limit < middle / measure < limit:
        raise ValueError(
            f"{name} has a median of {middle:.4g}, {what} {measure:.4g} of the cameras' units: it is in another unit, "
            "multiply it by what the cameras' unit is of it (0.001 of millimetres where cameras are in metres)"
        )
