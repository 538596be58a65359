"""Memory of what reads captions and pictures: umT5 and CLIP, each used and gone before the transformer is there."""

import math
from collections.abc import Sequence
from functools import lru_cache

import torch

from mvtrack.config.model import ModelConfig
from mvtrack.config.placement import Placement
from mvtrack.models.cached_weights import without_network
from mvtrack.models.text_encoder import are_cached
from mvtrack.models.weights.layouts import Part
from mvtrack.models.weights.registry import registry
from mvtrack.models.weights.sources import open_part

CAPTIONS, PICTURES = "captions", "image tokens"
_UMT5_BYTES_PER_VALUE = 2  # of the released file
_VIT_H_VALUES = 632_000_000  # of CLIP ViT-H/14's picture half, by its model card; the file holds the other half too


def encoders_of(config: ModelConfig, captions: Sequence[str | None] | None = None) -> tuple[str, ...]:
    """The encoders that a video needs. captions: those it needs, where they are known: cached ones need no encoder."""
    known = captions is not None and config.text is not None and are_cached(captions, config.text)
    names = [CAPTIONS] if config.text and config.dit.text_dim and not known else []
    return (*names, PICTURES) if config.image and config.dit.image_dim else tuple(names)


def encoder_phases(config: ModelConfig, placement: Placement, names: Sequence[str]) -> dict[str, int]:
    """Bytes of each of the encoders on the device; none where they work on the CPU beside it."""
    beside = placement.encoders_on_cpu and placement.device != "cpu"
    if beside or placement.offload == "blocks":  # which reads weights from their file, on the CPU too
        return {}
    sizes = {}
    if CAPTIONS in names:
        width = getattr(torch, config.text.precision).itemsize
        sizes[CAPTIONS] = width * _values(config.text.weights, "text")
    if PICTURES in names:
        sizes[PICTURES] = 4 * _values(config.image.weights, "image")
    return sizes


@lru_cache(maxsize=8)
def _values(source: str, part: Part) -> int:
    """Numbers in an encoder's file; of one that is not on this machine, in the released one."""
    try:
        with without_network():
            return sum(math.prod(shape) for shape in open_part(source, part).shapes.values())
    except ValueError:
        return registry()["umt5_xxl"].bytes // _UMT5_BYTES_PER_VALUE if part == "text" else _VIT_H_VALUES
