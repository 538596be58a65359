"""Arithmetic of one pass through the transformer: what a step costs, independent of the machine."""

from mvtrack.config import DiTConfig


def forward_flops(config: DiTConfig, tokens: int, text_tokens: int = 0, camera: bool = True) -> float:
    """Floating-point operations of one sample's forward pass (a multiply-add counts two).

    tokens: of all views together; every token attends to every other.
    """
    d, ffn = config.dim, config.ffn_dim
    self_projections = 8 * tokens * d * d
    self_attention = 4 * tokens * tokens * d
    cross = 4 * (tokens + text_tokens) * d * d + 4 * tokens * text_tokens * d if text_tokens else 0
    feed_forward = 4 * tokens * d * ffn
    camera_projection = 2 * tokens * d * d if camera else 0
    return config.num_layers * (self_projections + self_attention + cross + feed_forward + camera_projection)


def training_flops(config: DiTConfig, tokens: int, text_tokens: int = 0, recompute: bool = False) -> float:
    """Forward and backward (twice the forward) of one sample, plus one more forward with checkpointing.

    The recomputation inside fused attention kernels is not counted, nor is what frozen weights save.
    """
    return (4 if recompute else 3) * forward_flops(config, tokens, text_tokens)
