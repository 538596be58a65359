"""Models in the layouts of other projects: one safetensors file of official names, or a diffusers transformer.

What the other project has no name for (the ray encoder, the tracking head, a small codec) goes with it, so that
`mvtrack convert` gives back the same model; the other project runs the part that it knows.
"""

import json
from pathlib import Path

from torch import Tensor

from mvtrack.config.model import DiTConfig, ModelConfig
from mvtrack.config.tree import to_tree
from mvtrack.files.tensor_file import write_tensors
from mvtrack.models.rope import default_pairs
from mvtrack.models.weights.convert import CODEC_PREFIX, CONFIG_KEY, EXTRAS_FILE
from mvtrack.models.weights.naming import DIT_DIFFUSERS

FOREIGN_FILE = "diffusion_pytorch_model.safetensors"
WAN_ROPE_THETA = 10000.0
# Branches that act on every forward pass; this project's rays are left out too, but only ever add to Wan.
_NOT_IN_DIFFUSERS = ("pose_encoder", "projector", "control_adapter", "rope_phases", "role_embedding")


def write_official(config: ModelConfig, dit: dict[str, Tensor], codec: dict[str, Tensor], folder: Path) -> Path:
    """One file: official names, this project's beside them, the config in its metadata. For ComfyUI and DiffSynth."""
    state = dit | {CODEC_PREFIX + name: value for name, value in codec.items()}
    return _write(folder / FOREIGN_FILE, state, {CONFIG_KEY: json.dumps(to_tree(config))})


def write_diffusers(config: ModelConfig, dit: dict[str, Tensor], codec: dict[str, Tensor], folder: Path) -> Path:
    """A folder that diffusers' WanTransformer3DModel loads; this project's own tensors and config lie beside.

    Raises ValueError when diffusers would compute something else with these weights.
    """
    description = diffusers_config(config.dit)
    names = {name: DIT_DIFFUSERS.from_official(name) for name in dit}
    extras = {name: dit[name] for name, other in names.items() if other is None}
    extras |= {CODEC_PREFIX + name: value for name, value in codec.items()}
    known = {other: dit[name] for name, other in names.items() if other is not None}
    path = _write(folder / FOREIGN_FILE, known, {"format": "pt"})
    _write(folder / EXTRAS_FILE, extras, {CONFIG_KEY: json.dumps(to_tree(config))})
    (folder / "config.json").write_text(json.dumps(description, indent=2) + "\n")
    return path


def diffusers_config(dit: DiTConfig) -> dict:
    """The config.json of WanTransformer3DModel. Raises ValueError for what that class cannot express."""
    if not dit.text_dim:
        raise ValueError("diffusers' Wan transformer needs a text branch (dit.text_dim is 0): export --layout official")
    foreign = [f"dit.{name}" for name in _NOT_IN_DIFFUSERS if getattr(dit, name)]
    foreign += [f"dit.rope_frames: {dit.rope_frames}"] if dit.rope_frames == "shared" else []
    foreign += [f"dit.camera_encoding: {dit.camera_encoding}"] if dit.camera_encoding != "none" else []
    if foreign:
        raise ValueError(
            f"diffusers' Wan transformer has no {', '.join(foreign)} and would compute something else: export --layout "
            f"official, one safetensors file"
        )
    head_dim = dit.dim // dit.num_heads
    if dit.rope_theta != WAN_ROPE_THETA or dit.rope_pairs not in (None, default_pairs(head_dim)):
        raise ValueError("diffusers' Wan transformer has Wan's own RoPE only: export --layout official")
    return {
        "_class_name": "WanTransformer3DModel",
        "patch_size": list(dit.patch_size),
        "num_attention_heads": dit.num_heads,
        "attention_head_dim": head_dim,
        "in_channels": dit.in_channels,
        "out_channels": dit.out_channels,
        "text_dim": dit.text_dim,
        "freq_dim": dit.freq_dim,
        "ffn_dim": dit.ffn_dim,
        "num_layers": dit.num_layers,
        "cross_attn_norm": True,
        "qk_norm": "rms_norm_across_heads",
        "eps": dit.eps,
        "image_dim": dit.image_dim or None,
        "added_kv_proj_dim": dit.dim if dit.image_dim else None,
        "rope_max_seq_len": 1024,
        "pos_embed_seq_len": None,
    }


def _write(path: Path, state: dict[str, Tensor], metadata: dict[str, str]) -> Path:
    """Written aside and renamed, so that nothing half-written has the final name."""
    if path.exists():
        raise ValueError(f"{path} exists already: choose another folder")
    return write_tensors(path, state, metadata)
