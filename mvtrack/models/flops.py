"""Arithmetic of one pass through a network: what a step costs, independent of the machine."""

from dataclasses import replace
from functools import lru_cache

import torch
from torch.utils.flop_counter import FlopCounterMode

from mvtrack.config.model import DiTConfig, ModelConfig
from mvtrack.models.activation_checkpointing import Checkpointing
from mvtrack.models.blocks import scope_of
from mvtrack.models.conditioning import Conditioning
from mvtrack.models.depth_priors import POSITION_CHANNELS
from mvtrack.models.networks import empty_network


def forward_flops(
    config: DiTConfig, tokens: int, text_tokens: int = 0, camera: bool = True, image_tokens: int = 0,
    grid: tuple[int, int] = (2, 21),
) -> float:  # fmt: skip
    """Floating-point operations of one sample's forward pass (a multiply-add counts two).

    tokens: of all views together. grid: views and latent frames, which is how factorised attention parts the tokens.
    Embeddings, head and adapter are left out: under 1 % at full size.
    """
    other = _other_flops(config, tokens, text_tokens, camera, image_tokens)
    return sum(_self_attention_flops(config, tokens, layer, grid) + other for layer in range(config.num_layers))


def reference_flops(
    config: DiTConfig, tokens: int, text_tokens: int = 0, image_tokens: int = 0, grid: tuple[int, int] = (2, 21)
) -> float:
    """Of the part of `forward_flops` that a sampling needs once, where one reference view does not look at the others;
    else 0."""
    if config.reference_attention == "joint":
        return 0.0
    own = tokens // grid[0]
    alone, first = replace(config, reference_attention="joint"), (1, grid[1])
    return forward_flops(alone, own, text_tokens, image_tokens=image_tokens, grid=first)


def training_flops(
    config: DiTConfig, tokens: int, text_tokens: int = 0, checkpointing: Checkpointing | None = None,
    grid: tuple[int, int] = (2, 21),
) -> float:  # fmt: skip
    """Forward and backward (twice the forward) of one sample, and what recomputed blocks compute again.

    The recomputation inside fused attention kernels is not counted, nor is what frozen weights save.
    """
    total = 3 * forward_flops(config, tokens, text_tokens, grid=grid)
    if checkpointing is None:
        return total
    other = _other_flops(config, tokens, text_tokens)
    for layer in range(config.num_layers):
        kept = checkpointing.kept_by(layer)
        total += 0 if kept is None else other
        total += _self_attention_flops(config, tokens, layer, grid) if kept == "nothing" else 0
    return total


def view_training_flops(config: ModelConfig, tokens: int, checkpointing: Checkpointing | None = None) -> float:
    """The same of a network over still views, whose forward is counted as PyTorch does it. tokens: of its coarsest
    grid, of all views together."""
    whole, blocks = view_forward_flops(config, tokens)
    return 3 * whole + (0 if checkpointing is None else blocks)


@lru_cache(maxsize=32)
def view_forward_flops(config: ModelConfig, tokens: int) -> tuple[float, float]:
    """Of one sample's forward pass, and of what is recomputed in it: all but the condition encoder."""
    unit, views = config.backbone.size_unit, config.views.count
    network = empty_network(config)
    cells = unit, unit * tokens // views  # cells count, not how they lie
    with FlopCounterMode(display=False) as counter, torch.no_grad(), torch.device("meta"):
        network(*still_inputs(config, 1, views, cells))
    encoders = ("condition_encoder", "add_conv_in")
    found = (sum(ops.values()) for name, ops in counter.get_flop_counts().items() if name.endswith(encoders))
    whole = float(counter.get_total_flops())
    return whole, whole - next(found)


def still_inputs(config: ModelConfig, batch: int, views: int, cells: tuple[int, int]) -> tuple:
    """What a network of diffusers over still views takes, of the right shapes: latents, timestep, conditioning."""
    lead, stride = (batch, views, 1), config.codec.stride
    size = tuple(side * stride for side in cells)
    priors = config.cat3d is not None and config.cat3d.depth_priors
    conditioning = Conditioning(
        torch.empty(*lead, 6, *size), reference=torch.zeros(lead, dtype=torch.bool),
        pixels=torch.empty(batch, views, 4, *size) if priors else None,
        positions=torch.empty(batch, views, POSITION_CHANNELS, *cells) if priors else None,
    )  # fmt: skip
    return torch.empty(*lead, config.codec.channels, *cells), torch.zeros(batch), conditioning


def _self_attention_flops(config: DiTConfig, tokens: int, layer: int, grid: tuple[int, int]) -> float:
    """Scores and their products with the values, of one layer."""
    scope = scope_of(config, layer)
    groups = {"all": 1, "view": grid[0], "moment": grid[1]}[scope]
    pairs = tokens * tokens / groups
    if config.reference_attention == "own" and scope != "view":  # one reference asks itself alone
        pairs -= tokens / grid[0] * (tokens - tokens / grid[0]) / groups
    return 4 * pairs * config.dim


def _other_flops(config: DiTConfig, tokens: int, text_tokens: int, camera: bool = True, image_tokens: int = 0) -> float:
    d = config.dim
    square_maps = 4 + camera + config.projector  # q, k, v, o; camera_proj; ReCamMaster's
    flops = 2 * tokens * d * d * square_maps + 4 * tokens * d * config.ffn_dim
    if config.rope_phases:
        flops += 4 * tokens * d * (d // 3)  # two maps to a third of the width
    if text_tokens:
        flops += 4 * tokens * d * d  # q, o
        flops += sum(4 * n * d * d + 4 * tokens * n * d for n in (text_tokens, image_tokens))
    return flops
