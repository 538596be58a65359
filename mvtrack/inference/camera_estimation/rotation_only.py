"""Cameras that turn on the spot: rotations (and the focal length) from matched points, without any depth.

A turning camera carries the ray of a point to another ray by one rotation, whatever the depth. Structure from motion
has nothing to triangulate there and fails or invents; this is the model that fits.
"""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from mvtrack.geometry.camera import camera_rays
from mvtrack.inference.camera_estimation.matches import MAX_ERROR_PX, PairMatches
from mvtrack.metrics.camera_accuracy import rotation_angle

_ROUNDS = 12
_SOFT_PX = 1.0  # residual beyond which a match loses weight (Geman and McClure)
_FOCAL_STEPS = 13


@dataclass(frozen=True)
class Turning:
    """Rotations camera-to-world of the frames found, and how well they explain the matches.

    misfit: mean distance in pixels between matches and where the rotations put them, each counted as 2 px at most.
    """

    rotation: Float[Tensor, "T 3 3"]
    found: Bool[Tensor, "T"]
    misfit: float

    @property
    def largest_deg(self) -> float:
        """The largest angle between the first found frame and another."""
        return largest_turn_deg(self.rotation[self.found])


def largest_turn_deg(rotation: Float[Tensor, "N 3 3"]) -> float:
    """The largest angle in degrees between the first rotation and another."""
    return float(torch.rad2deg(rotation_angle(rotation[:1].expand_as(rotation), rotation)).max())


def fit_turning(matches: PairMatches, K: Float[Tensor, "T 3 3"]) -> Turning:
    """Rotations of all frames that matches connect, by least squares with weights that fade with the error.

    Starts from a chain of frames with the most matches, then turns each frame in turn onto all its neighbours.
    """
    num_frames = len(K)
    i, j = matches.first[matches.of_pair], matches.second[matches.of_pair]
    rays_i, rays_j = (_unit(camera_rays(xy, K[t])) for xy, t in ((matches.xy_first, i), (matches.xy_second, j)))
    rotation = _chain(matches, rays_i, rays_j, num_frames)
    found = matches.linked(num_frames)
    # every match once from each end: own ray, own frame, other ray, other frame
    own, own_frame = torch.cat([rays_i, rays_j]), torch.cat([i, j])
    other, other_frame = torch.cat([rays_j, rays_i]), torch.cat([j, i])
    for _ in range(_ROUNDS):
        weight = _weight(_error_px(matches, rotation, rays_i, K)).repeat(2)
        world = (rotation[other_frame] @ other[..., None])[..., 0]
        moments = torch.zeros(num_frames, 3, 3, dtype=own.dtype)
        moments.index_add_(0, own_frame, weight[:, None, None] * world[:, :, None] * own[:, None])
        # a step of half the way: neighbours move at the same time
        rotation = _nearest_rotation(_nearest_rotation(moments) + rotation)
    misfit = _error_px(matches, rotation, rays_i, K).clamp(max=MAX_ERROR_PX).mean() if len(matches) else MAX_ERROR_PX
    return Turning(rotation, found, float(misfit))


def fit_turning_and_focal(
    matches: PairMatches, K: Float[Tensor, "T 3 3"], low: float = 0.5, high: float = 2.0
) -> tuple[Turning, Float[Tensor, "T 3 3"]]:
    """The same with one unknown focal length for all frames, between `low` and `high` times the given one."""
    ends = math.log2(low), math.log2(high)
    for _ in range(2):  # the second time between the neighbours of the best
        exponents = torch.linspace(*ends, _FOCAL_STEPS).tolist()
        fits = [fit_turning(matches, _with_focal(K, 2**exponent)) for exponent in exponents]
        best = min(range(len(fits)), key=lambda n: fits[n].misfit)
        chosen = fits[best], _with_focal(K, 2 ** exponents[best])
        ends = exponents[max(best - 1, 0)], exponents[min(best + 1, len(exponents) - 1)]
    return chosen


def _with_focal(K: Float[Tensor, "T 3 3"], factor: float) -> Float[Tensor, "T 3 3"]:
    scaled = K.clone()
    scaled[:, 0, 0] *= factor
    scaled[:, 1, 1] *= factor
    return scaled


def _unit(rays: Float[Tensor, "M 3"]) -> Float[Tensor, "M 3"]:
    return rays / rays.norm(dim=-1, keepdim=True)


def _chain(matches: PairMatches, rays_i: Tensor, rays_j: Tensor, num_frames: int) -> Float[Tensor, "T 3 3"]:
    """Rotations by following the pairs with the most matches from the best connected frame outwards."""
    rotation = torch.eye(3, dtype=rays_i.dtype).repeat(num_frames, 1, 1)
    counts = torch.bincount(matches.of_pair, minlength=len(matches.first))
    known = torch.zeros(num_frames, dtype=torch.bool)
    if len(matches):
        known[matches.first[counts.argmax()]] = True
    while True:
        reach = known[matches.first] != known[matches.second]
        if not reach.any():
            return rotation
        pair = int(torch.where(reach, counts, -1).argmax())
        mine = matches.of_pair == pair
        i, j = int(matches.first[pair]), int(matches.second[pair])
        to_j = _robust_rotation(rays_i[mine], rays_j[mine])  # ray in j of a ray in i
        if known[i]:
            rotation[j] = rotation[i] @ to_j.mT
        else:
            rotation[i] = rotation[j] @ to_j
        known[[i, j]] = True


def _robust_rotation(a: Float[Tensor, "N 3"], b: Float[Tensor, "N 3"]) -> Float[Tensor, "3 3"]:
    """The rotation that takes rays a to rays b; rays far from the others' agreement fade out."""
    weight = torch.ones(len(a), dtype=a.dtype)
    for _ in range(_ROUNDS):
        rotation = _nearest_rotation((weight[:, None] * b).mT @ a)
        error = (b - a @ rotation.mT).norm(dim=-1)
        soft = error.median().clamp_min(1e-4)
        weight = (soft**2 / (soft**2 + error.square())).square()
    return rotation


def _nearest_rotation(matrix: Float[Tensor, "*b 3 3"]) -> Float[Tensor, "*b 3 3"]:
    """The rotation nearest to a matrix; the identity for a matrix of zeros."""
    empty = (matrix.abs().amax((-1, -2), keepdim=True) == 0) * torch.eye(3, dtype=matrix.dtype)
    u, _, vt = torch.linalg.svd(matrix + empty)
    sign = torch.ones_like(matrix[..., 0])
    sign[..., 2] = torch.linalg.det(u @ vt)
    return (u * sign[..., None, :]) @ vt


def _error_px(
    matches: PairMatches, rotation: Tensor, rays_i: Float[Tensor, "M 3"], K: Float[Tensor, "T 3 3"]
) -> Float[Tensor, "M"]:
    i, j = matches.first[matches.of_pair], matches.second[matches.of_pair]
    seen = (rotation[j].mT @ rotation[i] @ rays_i[..., None])[..., 0]
    point = (K[j] @ seen[..., None])[..., 0]
    error = (point[:, :2] / point[:, 2:].clamp_min(1e-9) - matches.xy_second).norm(dim=-1)
    return torch.where(seen[:, 2] > 1e-6, error, torch.inf)


def _weight(error_px: Float[Tensor, "M"]) -> Float[Tensor, "M"]:
    return (_SOFT_PX**2 / (_SOFT_PX**2 + error_px.square())).square()
