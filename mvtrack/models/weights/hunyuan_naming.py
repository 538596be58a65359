"""Tencent's own names of Hunyuan-DiT's parameters to diffusers', with the tensors that are fused there taken apart."""

import re

from torch import Tensor

from mvtrack.models.weights.checkpoint import Checkpoint
from mvtrack.models.weights.stored import Stored

_MARKER = "blocks.0.attn1.Wqkv.weight"
_MODULES = (  # patterns of the beginning or middle of a name, in this order
    (r"\.norm2\.", ".NORM3."),  # the two are swapped
    (r"\.norm3\.", ".norm2."),
    (r"\.NORM3\.", ".norm3."),
    (r"(blocks\.\d+\.)norm1\.", r"\1norm1.norm."),
    (r"default_modulation\.1\.", "norm1.linear."),
    (r"\.q_norm\.", ".norm_q."),
    (r"\.k_norm\.", ".norm_k."),
    (r"\.out_proj\.", ".to_out.0."),
    (r"\.attn2\.q_proj\.", ".attn2.to_q."),
    (r"\.mlp\.fc1\.", ".ff.net.0.proj."),
    (r"\.mlp\.fc2\.", ".ff.net.2."),
    (r"^pooler\.", "time_extra_emb.pooler."),
    (r"^style_embedder\.", "time_extra_emb.style_embedder."),
    (r"^t_embedder\.mlp\.0\.", "time_extra_emb.timestep_embedder.linear_1."),
    (r"^t_embedder\.mlp\.2\.", "time_extra_emb.timestep_embedder.linear_2."),
    (r"^extra_embedder\.0\.", "time_extra_emb.extra_embedder.linear_1."),
    (r"^extra_embedder\.2\.", "time_extra_emb.extra_embedder.linear_2."),
    (r"^x_embedder\.", "pos_embed."),
    (r"^mlp_t5\.0\.", "text_embedder.linear_1."),
    (r"^mlp_t5\.2\.", "text_embedder.linear_2."),
    (r"^final_layer\.adaLN_modulation\.1\.", "norm_out.linear."),
    (r"^final_layer\.linear\.", "proj_out."),
)
_FUSED = {"Wqkv": ("to_q", "to_k", "to_v"), "kv_proj": ("to_k", "to_v")}


def is_tencents(checkpoint: Checkpoint) -> bool:
    """Whether a checkpoint carries Tencent's own names."""
    return _MARKER in checkpoint.tensors


def with_diffusers_names(checkpoint: Checkpoint) -> Checkpoint:
    """The same tensors under diffusers' names: q, k and v apart, the last layer's scale before its shift."""
    tensors: dict[str, Stored] = {}
    for name, stored in checkpoint.tensors.items():
        fused = next((key for key in _FUSED if f".{key}." in name and name.startswith("blocks.")), None)
        if fused:
            parts = _FUSED[fused]
            for i, part in enumerate(parts):
                shape = (stored.shape[0] // len(parts), *stored.shape[1:])
                tensors[name.replace(fused, part)] = Stored(shape, stored.dtype, _part(stored, i, len(parts)))
        elif name.startswith("final_layer.adaLN_modulation.1."):
            tensors[_renamed(name)] = Stored(stored.shape, stored.dtype, lambda stored=stored: _swapped(stored.read()))
        else:
            tensors[_renamed(name)] = stored
    return Checkpoint(checkpoint.where, tensors, checkpoint.metadata)


def _part(stored: Stored, index: int, count: int):
    return lambda: stored.read().chunk(count)[index]


def _swapped(shift_scale: Tensor) -> Tensor:
    return shift_scale.roll(len(shift_scale) // 2, 0)


def _renamed(name: str) -> str:
    for pattern, replacement in _MODULES:
        name = re.sub(pattern, replacement, name)
    return name
