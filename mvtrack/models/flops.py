"""Arithmetic of one pass through the transformer: what a step costs, independent of the machine."""

from mvtrack.config.model import DiTConfig
from mvtrack.models.activation_checkpointing import Checkpointing
from mvtrack.models.blocks import scope_of


def forward_flops(
    config: DiTConfig,
    tokens: int,
    text_tokens: int = 0,
    camera: bool = True,
    image_tokens: int = 0,
    grid: tuple[int, int] = (2, 21),
) -> float:
    """Floating-point operations of one sample's forward pass (a multiply-add counts two).

    tokens: of all views together. grid: views and latent frames, which is how factorised attention parts the tokens.
    Embeddings, head and adapter are left out: under 1 % at full size.
    """
    other = _other_flops(config, tokens, text_tokens, camera, image_tokens)
    return sum(_self_attention_flops(config, tokens, layer, grid) + other for layer in range(config.num_layers))


def training_flops(
    config: DiTConfig,
    tokens: int,
    text_tokens: int = 0,
    checkpointing: Checkpointing | None = None,
    grid: tuple[int, int] = (2, 21),
) -> float:
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


def _self_attention_flops(config: DiTConfig, tokens: int, layer: int, grid: tuple[int, int]) -> float:
    """Scores and their products with the values, of one layer."""
    groups = {"all": 1, "view": grid[0], "moment": grid[1]}[scope_of(config, layer)]
    return 4 * tokens * tokens / groups * config.dim


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
