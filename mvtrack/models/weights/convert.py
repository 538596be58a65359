"""Released weights to a model of this project: which release a file is, and everything of it in its place."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch

from mvtrack.config.model import ModelConfig
from mvtrack.config.presets import OURS, PRESETS, is_new_parameter
from mvtrack.config.tree import from_tree
from mvtrack.models.dit import empty_dit
from mvtrack.models.init_weights import initial_weights
from mvtrack.models.pca_codec import build_codec
from mvtrack.models.reshoot_model import FORMAT, ReshootModel
from mvtrack.models.weights.checkpoint import Checkpoint, open_checkpoint
from mvtrack.models.weights.layouts import open_dit
from mvtrack.models.weights.loading import Gaps, Match, load_into
from mvtrack.models.weights.sources import resolve

EXTRAS_FILE = "mvtrack.safetensors"
CONFIG_KEY = "mvtrack_config"
CODEC_PREFIX = "codec."  # tensors of a small codec that travels in a file of official names


@dataclass(frozen=True)
class Pretrained:
    """A model with released weights, and what was read, made fresh and left out."""

    model: ReshootModel
    match: Match


def open_released(sources: Sequence[str | Path]) -> Checkpoint:
    """A transformer under official names: a base, and weights that replace parts of it, in this order.

    Each source is a file, a folder or a hub id. Raises ValueError when the first is no whole transformer.
    """
    if not sources:
        raise ValueError("no weights given: name a file, a folder or a hub id")
    paths = [resolve(source, "dit") for source in sources]
    for path in paths:
        if open_checkpoint(path).metadata.get("format") == FORMAT:
            raise ValueError(f"{path} is a model of this project already: use it as it is")
    base, *deltas = [open_dit(path) for path in paths]
    if base.is_delta:
        raise ValueError(f"{base.checkpoint.where} holds self-attention only: give the base that it belongs to first")
    checkpoint = with_extras(base.checkpoint)
    for delta in deltas:
        if not delta.is_delta:
            raise ValueError(f"{delta.checkpoint.where} is a whole transformer: only the first source may be one")
        checkpoint = checkpoint.overlaid(delta.checkpoint)
    return checkpoint


def with_extras(checkpoint: Checkpoint) -> Checkpoint:
    """A diffusers part as `interchange` writes it: with this project's own tensors and config from the file beside."""
    extras = checkpoint.where.parent / EXTRAS_FILE
    if checkpoint.where.name == EXTRAS_FILE or not extras.is_file():
        return checkpoint
    own = open_checkpoint(extras)
    return Checkpoint(checkpoint.where, checkpoint.tensors | own.tensors, checkpoint.metadata | own.metadata)


def travelling_config(checkpoint: Checkpoint) -> ModelConfig | None:
    """The config that a file of this project's export carries; None in a released file."""
    text = checkpoint.metadata.get(CONFIG_KEY)
    return None if text is None else from_tree(ModelConfig, json.loads(text), where=f"config in {checkpoint.where}")


def recognise(checkpoint: Checkpoint) -> str:
    """The preset whose released names and shapes a checkpoint has. Raises ValueError that tells the nearest one."""
    found = checkpoint.shapes
    differences = {}
    for name in PRESETS:
        released = _released_shapes(name)
        if released == found:
            return name
        differences[name] = sum(found.get(k) != released.get(k) for k in found.keys() | released.keys())
    nearest = min(differences, key=differences.__getitem__)
    raise ValueError(
        f"{checkpoint.where} is none of the released models ({', '.join(PRESETS)}); {nearest} is nearest, with "
        f"{differences[nearest]} differences: name a preset or a config"
    )


@cache
def _released_shapes(name: str) -> dict[str, tuple[int, ...]]:
    state = empty_dit(PRESETS[name]).state_dict()
    return {key: tuple(value.shape) for key, value in state.items() if not is_new_parameter(key)}


def load_pretrained(
    config: ModelConfig, checkpoint: Checkpoint, fresh: Sequence[str] = (), drop: Sequence[str] = (),
    dtype: torch.dtype | None = None, seed: int = 0,
) -> Pretrained:  # fmt: skip
    """Build the config's model with a checkpoint's weights; what is this project's own starts at zero effect.

    fresh, drop: patterns of further parameters that may be missing, and of tensors to leave out. dtype: None keeps
    the file's, or what holds all of them if they differ. seed: for fresh parameters that are not zero. Tensors are
    views into the file where the type agrees. Raises ValueError on any difference that is not named.
    """
    own_codec = {name for name in checkpoint.tensors if name.startswith(CODEC_PREFIX)}
    weights, dit = checkpoint.without(own_codec), empty_dit(config)
    dtype = dtype or weights.common_dtype
    matched = load_into(dit, weights, Gaps((*OURS, *fresh), tuple(drop)), dtype)
    if matched.new:
        values = initial_weights(config, seed, set(matched.new))
        dit.load_state_dict({name: value.to(dtype) for name, value in values}, assign=True, strict=False)
    codec = build_codec(config.codec)
    codec_weights = checkpoint.without(weights.tensors).renamed(lambda name: name.removeprefix(CODEC_PREFIX))
    load_into(codec, codec_weights)
    return Pretrained(ReshootModel(config, dit.eval(), codec), matched)
