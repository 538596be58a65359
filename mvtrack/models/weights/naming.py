"""The names that one model's parameters carry in different projects, as tables that are read in both directions.

The official names (Wan's own, which DiffSynth and ComfyUI keep too) are the project's names; a table pairs them with
another project's. `{i}` stands for a block's number. A row names a module or a parameter; the rest of a name is kept.
"""

import re
from dataclasses import dataclass
from functools import cached_property

_DIT_BLOCK = {
    "modulation": "scale_shift_table",
    "norm3": "norm2",
    "self_attn.q": "attn1.to_q",
    "self_attn.k": "attn1.to_k",
    "self_attn.v": "attn1.to_v",
    "self_attn.o": "attn1.to_out.0",
    "self_attn.norm_q": "attn1.norm_q",
    "self_attn.norm_k": "attn1.norm_k",
    "cross_attn.q": "attn2.to_q",
    "cross_attn.k": "attn2.to_k",
    "cross_attn.v": "attn2.to_v",
    "cross_attn.o": "attn2.to_out.0",
    "cross_attn.norm_q": "attn2.norm_q",
    "cross_attn.norm_k": "attn2.norm_k",
    "cross_attn.k_img": "attn2.add_k_proj",
    "cross_attn.v_img": "attn2.add_v_proj",
    "cross_attn.norm_k_img": "attn2.norm_added_k",
    "ffn.0": "ffn.net.0.proj",
    "ffn.2": "ffn.net.2",
}

_DIT_OUTSIDE = {
    "patch_embedding": "patch_embedding",
    "text_embedding.0": "condition_embedder.text_embedder.linear_1",
    "text_embedding.2": "condition_embedder.text_embedder.linear_2",
    "time_embedding.0": "condition_embedder.time_embedder.linear_1",
    "time_embedding.2": "condition_embedder.time_embedder.linear_2",
    "time_projection.1": "condition_embedder.time_proj",
    "img_emb.proj.0": "condition_embedder.image_embedder.norm1",
    "img_emb.proj.1": "condition_embedder.image_embedder.ff.net.0.proj",
    "img_emb.proj.3": "condition_embedder.image_embedder.ff.net.2",
    "img_emb.proj.4": "condition_embedder.image_embedder.norm2",
    "head.modulation": "scale_shift_table",
    "head.head": "proj_out",
}

_T5_BLOCK = {
    "norm1": "layer.0.layer_norm",
    "attn.q": "layer.0.SelfAttention.q",
    "attn.k": "layer.0.SelfAttention.k",
    "attn.v": "layer.0.SelfAttention.v",
    "attn.o": "layer.0.SelfAttention.o",
    "pos_embedding.embedding": "layer.0.SelfAttention.relative_attention_bias",
    "norm2": "layer.1.layer_norm",
    "ffn.gate.0": "layer.1.DenseReluDense.wi_0",
    "ffn.fc1": "layer.1.DenseReluDense.wi_1",
    "ffn.fc2": "layer.1.DenseReluDense.wo",
}

_RESIDUAL = {"residual.0": "norm1", "residual.2": "conv1", "residual.3": "norm2", "residual.6": "conv2"}


@dataclass(frozen=True)
class Naming:
    """Pairs of (official, other) names or beginnings of names."""

    pairs: tuple[tuple[str, str], ...]

    def to_official(self, name: str) -> str | None:
        """The official name of another project's parameter; None when the table does not know it."""
        return _translate(name, self._from_other)

    def from_official(self, name: str) -> str | None:
        return _translate(name, self._from_official)

    @cached_property
    def _from_official(self) -> list[tuple[re.Pattern, str]]:
        return _rules(self.pairs)

    @cached_property
    def _from_other(self) -> list[tuple[re.Pattern, str]]:
        return _rules((other, official) for official, other in self.pairs)


def _rules(pairs) -> list[tuple[re.Pattern, str]]:
    """Patterns with what replaces them, the most specific first."""
    ordered = sorted(pairs, key=lambda pair: -pair[0].count("."))
    return [(re.compile(re.escape(a).replace(r"\{i\}", r"(\d+)") + r"((?:\..+)?)"), b) for a, b in ordered]


def _translate(name: str, rules: list[tuple[re.Pattern, str]]) -> str | None:
    for pattern, template in rules:
        found = pattern.fullmatch(name)
        if found:
            *number, rest = found.groups()
            return template.replace("{i}", number[0] if number else "") + rest
    return None


def _blocks(official: str, other: str, table: dict[str, str]) -> list[tuple[str, str]]:
    return [(f"{official}.{a}", f"{other}.{b}") for a, b in table.items()]


def _vae_pairs() -> list[tuple[str, str]]:
    pairs = [("conv1", "quant_conv"), ("conv2", "post_quant_conv")]
    for half in ("encoder", "decoder"):
        pairs += [(f"{half}.conv1", f"{half}.conv_in")]
        pairs += [(f"{half}.head.0", f"{half}.norm_out"), (f"{half}.head.2", f"{half}.conv_out")]
        pairs += _blocks(f"{half}.middle.0", f"{half}.mid_block.resnets.0", _RESIDUAL)
        pairs += [(f"{half}.middle.1", f"{half}.mid_block.attentions.0")]
        pairs += _blocks(f"{half}.middle.2", f"{half}.mid_block.resnets.1", _RESIDUAL)
    residual = _RESIDUAL | {"shortcut": "conv_shortcut"}
    kept = {name: name for name in ("resample", "time_conv")}
    pairs += _blocks("encoder.downsamples.{i}", "encoder.down_blocks.{i}", residual | kept)
    for level in range(4):  # three residual blocks, then an upsampler except at the last level
        for block in range(3):
            resnet = f"decoder.up_blocks.{level}.resnets.{block}"
            pairs += _blocks(f"decoder.upsamples.{4 * level + block}", resnet, residual)
        pairs += [(f"decoder.upsamples.{4 * level + 3}", f"decoder.up_blocks.{level}.upsamplers.0")]
    return pairs


DIT_DIFFUSERS = Naming((*_DIT_OUTSIDE.items(), *_blocks("blocks.{i}", "blocks.{i}", _DIT_BLOCK)))
VAE_DIFFUSERS = Naming(tuple(_vae_pairs()))
TEXT_TRANSFORMERS = Naming(
    (
        ("token_embedding", "shared"),
        ("norm", "encoder.final_layer_norm"),
        *_blocks("blocks.{i}", "encoder.block.{i}", _T5_BLOCK),
    )
)
