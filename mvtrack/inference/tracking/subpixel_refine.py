"""Starts to a fraction of a token: on the epipolar line of their point, where the pictures look alike.

Attention matches to a fifth of a token in the median, and a track is no better than the place where it starts. At one
moment a point's place in another view lies on a line that the cameras give, whether the point moves or not; where the
camera has only turned, they give the place itself. What is left is found in the pixels.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from mvtrack.geometry.camera import Camera, camera_rays, require_perspective
from mvtrack.inference.tracking.cross_view_init import Starts, inside, starts_by_attention
from mvtrack.inference.tracking.windowed_tracker import FindStarts
from tracking_head import Features

_REACH = 0.5  # tokens around a match that are searched, and the radius of the patches that are compared
_STEPS = (1 / 8, 1 / 32)  # tokens between the places that are compared, coarse then fine
_PATCH = 1 / 8  # tokens between the pixels of a patch
_OFF_LINE = 1.0  # tokens that a match may lie off its epipolar line; further off, line or match is wrong
_MEAN_COLOUR = 0.5  # how much of a patch's mean colour counts: exposure may differ between cameras
_AT_ONCE = 128  # points that are searched together


def refined_attention(
    pictures: Callable[[int], Float[Tensor, "V f 3 H W"]], camera: Callable[[int], Camera] | None = None
) -> FindStarts:
    """Starts by attention, refined. pictures, camera (V, f): of a window's latent frames; see `refine_starts`."""

    def find(window: int, features: Features, txy: Float[Tensor, "n 3"], source: int) -> Starts:
        starts = starts_by_attention(features, txy, source)
        known = None if camera is None else camera(window)
        return refine_starts(starts, txy, source, pictures(window), features.token_px, known)

    return find


@torch.no_grad()
def refine_starts(
    starts: Starts, txy: Float[Tensor, "N 3"], source: int, pictures: Float[Tensor, "V f 3 H W"], token_px: int,
    camera: Camera | None = None,
) -> Starts:  # fmt: skip
    """Move the starts that were found for points (latent frame, x, y) of view `source` by up to a token or so.

    pictures, camera (V, f): of all latent frames. camera: None where the views' places are not known. Starts at another
    moment than their point's are moved by the pixels alone.
    """
    moved = starts.txy.clone()
    for v in (v for v in range(len(moved)) if v != source):
        moments = torch.stack([txy[:, 0], moved[v, :, 0]], -1).long()
        for i, j in moments[starts.found[v]].unique(dim=0).tolist():
            for mine in (starts.found[v] & (moments == torch.tensor([i, j])).all(-1)).nonzero()[:, 0].split(_AT_ONCE):
                match = moved[v, mine, 1:]
                start, along = match, None
                if camera is not None and i == j:
                    start, along = to_epipolar_line(txy[mine, 1:], match, camera[source, i], camera[v, i], token_px)
                looks = patches(pictures[source, i], txy[mine, None, 1:], token_px)
                best = most_similar_patch(looks, pictures[v, j], start, along, token_px)
                moved[v, mine, 1:] = torch.where(inside(best, pictures.shape[-2:])[:, None], best, match)
    return Starts(moved, starts.found)


def to_epipolar_line(
    xy: Float[Tensor, "n 2"], match: Float[Tensor, "n 2"], own: Camera, other: Camera, token_px: int
) -> tuple[Float[Tensor, "n 2"], Float[Tensor, "n 2"]]:
    """Where on the lines that points of camera `own` may lie on in camera `other` their matches fall, and the lines'
    directions: of unit length, zero where no depth matters and the place is known, NaN where the match lies too far off
    and stays as it is."""
    for camera in (own, other):
        require_perspective(camera, "refinement along epipolar lines")
    origin, to_pixels = own.c2w[:3, 3].double(), other.K.double() @ other.c2w[:3, :3].double().T
    rays = camera_rays(xy.double(), own.K.double()) @ own.c2w[:3, :3].double().T @ to_pixels.T
    far = rays[:, :2] / rays[:, 2:]
    baseline = to_pixels @ (origin - other.c2w[:3, 3].double())
    line = torch.linalg.cross(baseline.expand_as(rays), rays)
    length = line[:, :2].norm(dim=-1, keepdim=True)
    turned = (length[:, 0] < 1e-9) & (rays[:, 2] > 0)
    normal = line[:, :2] / length
    off = (normal * match).sum(-1, keepdim=True) + line[:, 2:] / length
    place = torch.where(turned[:, None], far, match - off * normal)
    along = torch.where(turned[:, None], 0.0, torch.stack([-normal[:, 1], normal[:, 0]], -1))
    wrong = ~((place - match).norm(dim=-1) <= _OFF_LINE * token_px)
    place, along = torch.where(wrong[:, None], match, place), torch.where(wrong[:, None], torch.nan, along)
    return place.to(match), along.to(match)


def most_similar_patch(
    looks: Float[Tensor, "n 1 p"], picture: Float[Tensor, "3 H W"], start: Float[Tensor, "n 2"],
    along: Float[Tensor, "n 2"] | None, token_px: int,
) -> Float[Tensor, "n 2"]:  # fmt: skip
    """The places near `start` whose patches differ least: on a line where there is one, all around where it is NaN."""
    free = torch.ones(len(start), dtype=torch.bool) if along is None else along.isnan().any(-1)
    best = start.clone()
    for step, reach in zip(_STEPS, (_REACH, _STEPS[0]), strict=True):
        ticks = torch.arange(-round(reach / step), round(reach / step) + 1) * (step * token_px)
        for which, offsets in ((free, _around(ticks)), (~free, None if along is None else _on_line(ticks, along))):
            if which.any():
                best[which] = _least(looks, picture, best, offsets, which, token_px)
    return best


def _around(ticks: Float[Tensor, "s"]) -> Float[Tensor, "1 s2 2"]:
    return torch.stack(torch.meshgrid(ticks, ticks, indexing="xy"), -1).reshape(1, -1, 2)


def _on_line(ticks: Float[Tensor, "s"], along: Float[Tensor, "n 2"]) -> Float[Tensor, "n s 2"]:
    return ticks[:, None] * along[:, None]


def _least(
    looks: Tensor, picture: Tensor, centre: Float[Tensor, "n 2"], offsets: Float[Tensor, "_ s 2"],
    which: Bool[Tensor, "n"], token_px: int,
) -> Float[Tensor, "m 2"]:  # fmt: skip
    places = centre[which, None] + (offsets if len(offsets) == 1 else offsets[which])
    difference = (patches(picture, places, token_px) - looks[which]).square().mean(-1)
    return places[torch.arange(len(places)), difference.argmin(-1)]


def patches(picture: Float[Tensor, "3 H W"], xy: Float[Tensor, "n s 2"], token_px: int) -> Float[Tensor, "n s p"]:
    """Pixels around places, bilinear, less a part of their mean colour."""
    height, width = picture.shape[-2:]
    ticks = torch.arange(-round(_REACH / _PATCH), round(_REACH / _PATCH) + 1) * (_PATCH * token_px)
    at = xy[:, :, None] + _around(ticks)[0]
    grid = 2 * at / torch.tensor([width, height]) - 1
    found = F.grid_sample(picture[None], grid.flatten(0, 1)[None], padding_mode="border", align_corners=False)
    found = found[0].unflatten(1, xy.shape[:2])  # (3, n, s, p)
    found = found - (1 - _MEAN_COLOUR) * found.mean(-1, keepdim=True)
    return found.permute(1, 2, 0, 3).flatten(2)
