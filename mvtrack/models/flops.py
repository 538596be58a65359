"""Arithmetic of one pass through the transformer: what a step costs, independent of the machine."""

from mvtrack.config.schema import DiTConfig
from mvtrack.models.activation_checkpointing import Checkpointing


def forward_flops(
    config: DiTConfig, tokens: int, text_tokens: int = 0, camera: bool = True, image_tokens: int = 0
) -> float:
    """Floating-point operations of one sample's forward pass (a multiply-add counts two).

    tokens: of all views together; every token attends to every other. Embeddings, head and adapter are left out: under
    1 % at full size.
    """
    return config.num_layers * (
        _self_attention_flops(config, tokens) + _other_flops(config, tokens, text_tokens, camera, image_tokens)
    )


def training_flops(
    config: DiTConfig, tokens: int, text_tokens: int = 0, checkpointing: Checkpointing | None = None
) -> float:
    """Forward and backward (twice the forward) of one sample, and what recomputed blocks compute again.

    The recomputation inside fused attention kernels is not counted, nor is what frozen weights save.
    """
    total = 3 * forward_flops(config, tokens, text_tokens)
    if checkpointing is None:
        return total
    again = _other_flops(config, tokens, text_tokens)
    if checkpointing.keep == "nothing":
        again += _self_attention_flops(config, tokens)
    return total + again * sum(checkpointing.kept_by(i) is not None for i in range(config.num_layers))


def _self_attention_flops(config: DiTConfig, tokens: int) -> float:
    """Scores and their products with the values, of one layer."""
    return 4 * tokens * tokens * config.dim


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
