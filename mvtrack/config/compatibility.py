"""Whether the weights of one model can start, or teach, another."""

from dataclasses import replace

from mvtrack.config.encoders import CodecConfig
from mvtrack.config.model import ModelConfig


def same_parameters(one: ModelConfig, other: ModelConfig) -> bool:
    """Whether two networks differ in nothing but what their tokens attend to, or how their cameras are given."""
    if type(one.backbone) is not type(other.backbone):
        return False
    names = ("attention", "full_attention_blocks", "reference_attention") if one.dit else ("rays",)
    return replace(one.backbone, **{name: getattr(other.backbone, name) for name in names}) == other.backbone


def same_codec(one: CodecConfig, other: CodecConfig) -> bool:
    """Whether they differ in nothing but the place of their weights; which weights those are, `check_encoders` asks."""
    return one.kind == other.kind and replace(one, weights=other.weights) == other
