"""More new views than a network makes at once: anchors spread over them first, then the rest beside their neighbours.

A network makes F views, some of which are given. The first batch makes the anchors from photographs alone; every later
one is given the photographs and anchors that stand nearest to what it makes, at least one photograph among them. So
errors do not add up along a path.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from mvtrack.config.views import ViewsConfig
from mvtrack.geometry.camera import Camera
from mvtrack.metrics.camera_accuracy import rotation_angle

_TURN_WEIGHT = 1.0  # subject distances that a turn by one radian counts for


@dataclass(frozen=True)
class ViewBatch:
    """given: photographs [0, N) and anchors N + target. made: targets, some of them a second time where a network
    makes more views than are left; only `kept` of them, the first ones, are results."""

    given: tuple[int, ...]
    made: tuple[int, ...]
    kept: int


def plan_batches(
    photos: Camera, targets: Camera, views: ViewsConfig, subject_distance: float, anchored: bool = True
) -> list[ViewBatch]:
    """Batches in the order in which they are made. photos: (N,), targets: (M,), of one world. anchored: False gives
    photographs alone, to a network that needs what only they have."""
    num_photos, num_targets = photos.shape[0], targets.shape[0]
    gap = view_distances(photos, targets, subject_distance)
    nearest = torch.cat([gap[:num_photos, num_photos:], gap[num_photos:, num_photos:]])  # (N + M, M)
    known, left = list(range(num_photos)), list(range(num_targets))
    batches = []
    while left:
        is_first = not batches
        num_given = _num_given(views, len(known), len(left), is_first)
        room = views.count - num_given
        if is_first:
            made = _spread(left, min(room, len(left)))
        else:
            made = left[:room]
        given = _nearest(nearest[:, made].mean(1), known, num_photos, num_given)
        batches.append(ViewBatch(given, tuple((made * room)[:room]), len(made)))
        if is_first and anchored:
            known += [num_photos + target for target in made]
        left = [target for target in left if target not in made]
    return batches


def view_distances(photos: Camera, targets: Camera, subject_distance: float) -> Float[Tensor, "n n"]:
    """Between all cameras, photographs first: centres in subject distances, and turns in radians."""
    c2w = torch.cat([photos.c2w, targets.c2w]).double()
    apart = torch.cdist(c2w[:, :3, 3], c2w[:, :3, 3]) / subject_distance
    first, second = torch.broadcast_tensors(c2w[:, None, :3, :3], c2w[None, :, :3, :3])
    return apart + _TURN_WEIGHT * rotation_angle(first, second)


def _num_given(views: ViewsConfig, known: int, left: int, is_first: bool) -> int:
    """How many are given: few in the first batch, so that anchors are many; half later, for they hold views together;
    and so many that nothing is made twice, where the network knows that."""
    allowed = [n for n in views.references if n <= known]
    if not allowed:
        least = min(views.references)
        raise ValueError(f"this model is given {least} views or more, {known} photographs are there: give it {least}")
    half = views.count // 2 if is_first else (views.count + 1) // 2
    wanted = max(min(known, half), views.count - left)
    return min(allowed, key=lambda n: (abs(n - wanted), -n))


def _spread(left: Sequence[int], count: int) -> list[int]:
    """Evenly, the ends among them; the middle one where it is one."""
    places = torch.linspace(0, len(left) - 1, count) if count > 1 else torch.tensor([(len(left) - 1) / 2])
    return [left[i] for i in places.round().long().tolist()]


def _nearest(distance: Float[Tensor, "n"], known: Sequence[int], num_photos: int, count: int) -> tuple[int, ...]:
    """The nearest photograph, then whatever is nearest; photographs first, in their order."""
    order = sorted(known, key=lambda i: (float(distance[i]), i))
    first = next(i for i in order if i < num_photos)
    chosen = [first, *(i for i in order if i != first)][:count]
    return tuple(sorted(chosen))
