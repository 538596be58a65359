"""Released weights to a model of this project: which release a file is, and everything of it in its place."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from mvtrack.backbone.codec import build_codec
from mvtrack.backbone.initialise import empty_dit, initial_weights
from mvtrack.backbone.model import ReshootModel
from mvtrack.backbone.presets import OURS, PRESETS, is_new_parameter
from mvtrack.config import ModelConfig
from mvtrack.weights.checkpoint import Checkpoint
from mvtrack.weights.layouts import open_dit
from mvtrack.weights.loading import Gaps, Match, load_into
from mvtrack.weights.sources import resolve


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
    base, *deltas = [open_dit(resolve(source, "dit")) for source in sources]
    if base.is_delta:
        raise ValueError(f"{base.checkpoint.where} holds self-attention only: give the base that it belongs to first")
    checkpoint = base.checkpoint
    for delta in deltas:
        if not delta.is_delta:
            raise ValueError(f"{delta.checkpoint.where} is a whole transformer: only the first source may be one")
        checkpoint = checkpoint.overlaid(delta.checkpoint)
    return checkpoint


def recognise(checkpoint: Checkpoint) -> str:
    """The preset whose released names and shapes a checkpoint has. Raises ValueError that tells the nearest one."""
    found = checkpoint.shapes
    differences = {}
    for name, config in PRESETS.items():
        released = {k: tuple(v.shape) for k, v in empty_dit(config).state_dict().items() if not is_new_parameter(k)}
        if released == found:
            return name
        differences[name] = sum(found.get(k) != released.get(k) for k in found.keys() | released.keys())
    nearest = min(differences, key=differences.__getitem__)
    raise ValueError(
        f"{checkpoint.where} is none of the released models ({', '.join(PRESETS)}); {nearest} is nearest, with "
        f"{differences[nearest]} differences: name a preset or a config"
    )


def load_pretrained(
    config: ModelConfig,
    checkpoint: Checkpoint,
    fresh: Sequence[str] = (),
    drop: Sequence[str] = (),
    dtype: torch.dtype | None = None,
    seed: int = 0,
) -> Pretrained:
    """Build the config's model with a checkpoint's weights; what is this project's own starts at zero effect.

    fresh, drop: patterns of further parameters that may be missing, and of tensors to leave out. dtype: None keeps
    the file's, or what holds all of them if they differ. seed: for fresh parameters that are not zero. Tensors are
    views into the file where the type agrees. Raises ValueError on any difference that is not named.
    """
    dit = empty_dit(config)
    matched = load_into(dit, checkpoint, Gaps((*OURS, *fresh), tuple(drop)), dtype or checkpoint.common_dtype)
    if matched.new:
        values = initial_weights(config, seed, set(matched.new))
        new = {name: value.to(dtype or checkpoint.common_dtype) for name, value in values}
        dit.load_state_dict(new, assign=True, strict=False)
    dit.eval()
    return Pretrained(ReshootModel(config, dit, build_codec(config.codec)), matched)
