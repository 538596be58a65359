"""Batches of new views, one after another."""

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from mvtrack.geometry.camera import Camera
from mvtrack.inference.sampler import SamplerOptions
from mvtrack.inference.views.anchors import ViewBatch
from mvtrack.inference.views.generate import StillScene, generate_views
from mvtrack.models.decoder.decode_aligned import AlignedDecoding
from mvtrack.models.reshoot_model import ReshootModel


def generate_batches(
    model: ReshootModel, pictures: Float[Tensor, "N 3 H W"], camera: Camera, batches: Sequence[ViewBatch],
    scene: StillScene, sample: SamplerOptions, on_step: Callable[[], None] | None = None,
    aligned: AlignedDecoding | None = None, plain: dict[int, Tensor] | None = None,
) -> Float[Tensor, "M 3 H W"]:  # fmt: skip
    """All new views. pictures: the photographs. camera: (N + M,), theirs first. Noise is drawn by a view's number, so
    that it does not depend on the batch in which the view is made. aligned: its depth is of photographs.
    plain: gets the views as the codec alone decodes them, by number, where they are aligned."""
    num_photos = len(pictures)
    known = dict(enumerate(pictures))
    for batch in batches:
        index = [*batch.given, *(num_photos + i for i in batch.made)]
        names = tuple(f"{i}" if k < batch.kept else f"{i}, filler {k}" for k, i in enumerate(batch.made))
        own = replace(scene, names=names, maps=None if scene.maps is None else scene.maps[list(batch.given)])
        given = torch.stack([known[i] for i in batch.given])
        beside = aligned and _of_batch(aligned, batch, plain)
        made = generate_views(model, given, camera[index], sample, own, on_step, beside)
        known |= {num_photos + i: made[k] for k, i in enumerate(batch.made[: batch.kept])}
    return torch.stack([known[i] for i in range(num_photos, camera.shape[0])])


def _of_batch(aligned: AlignedDecoding, batch: ViewBatch, plain: dict[int, Tensor] | None) -> AlignedDecoding:
    """The same for a batch; where none of the views that it is given has depth, it is estimated."""
    depth = {at: aligned.depth[view] for at, view in enumerate(batch.given) if view in (aligned.depth or {})}

    def keep(views: Float[Tensor, "M 1 3 H W"]) -> None:
        plain.update(zip(batch.made[: batch.kept], views[:, 0], strict=False))

    return replace(aligned, depth=depth or None, on_plain=None if plain is None else keep)
