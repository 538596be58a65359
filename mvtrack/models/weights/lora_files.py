"""Writing low-rank adapters (LoRA) in the layouts that lora.py reads."""

import json
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from mvtrack.files.atomic_io import write_aside
from mvtrack.files.tensor_file import write_tensors
from mvtrack.models.weights.lora import PEFT_CONFIG, PEFT_WEIGHTS, LoRA, LowRank
from mvtrack.models.weights.naming import DIT_DIFFUSERS

LoRALayout = Literal["peft", "diffusers", "comfyui", "diffsynth"]
LORA_FILE = "lora.safetensors"


def write_lora(lora: LoRA, folder: Path, layout: LoRALayout) -> Path:
    """Write an adapter into a folder; returns the file.

    peft keeps alpha in its settings beside the file, ComfyUI with each layer; diffusers' and DiffSynth's layouts have
    none, there B is multiplied by the scale. Raises ValueError for what a layout cannot hold.
    """
    if lora.layout == "kohya":
        raise ValueError(f"{lora.where} has kohya's names, which do not tell modules apart: merge it into its model")
    if lora.differences and layout != "comfyui":
        first = next(iter(lora.differences))
        raise ValueError(f"{lora.where} holds {first} as a whole difference, which only layout comfyui can hold")
    if layout == "peft":
        return _write_peft(lora, folder)
    state: dict[str, Tensor] = {}
    for module, pair in lora.pairs.items():
        if layout == "comfyui":
            name = f"diffusion_model.{module}"
            state |= {f"{name}.lora_down.weight": pair.down, f"{name}.lora_up.weight": pair.up}
            state[f"{name}.alpha"] = torch.tensor(pair.scale * len(pair.down))
        elif layout == "diffusers":
            name = f"transformer.{_diffusers_name(lora, module)}"
            state |= {f"{name}.lora_A.weight": pair.down, f"{name}.lora_B.weight": _scaled(pair)}
        else:
            state |= {f"{module}.lora_A.default.weight": pair.down, f"{module}.lora_B.default.weight": _scaled(pair)}
    for parameter, value in lora.differences.items():
        module, _, leaf = parameter.rpartition(".")
        state[f"diffusion_model.{module}.{'diff' if leaf == 'weight' else 'diff_b'}"] = value
    return write_tensors(folder / LORA_FILE, state, {"format": "pt"})


def _write_peft(lora: LoRA, folder: Path) -> Path:
    kinds = {(len(pair.down), pair.scale) for pair in lora.pairs.values()}
    if len(kinds) > 1:
        raise ValueError(f"{lora.where} has layers of different rank or scale: choose another layout than peft")
    rank, scale = kinds.pop()
    settings = {"peft_type": "LORA", "r": rank, "lora_alpha": scale * rank, "target_modules": sorted(lora.pairs)}
    state: dict[str, Tensor] = {}
    for module, pair in lora.pairs.items():
        name = f"base_model.model.{module}"
        state |= {f"{name}.lora_A.weight": pair.down, f"{name}.lora_B.weight": pair.up}
    folder.mkdir(parents=True, exist_ok=True)
    write_aside(folder / PEFT_CONFIG, lambda aside: aside.write_text(json.dumps(settings, indent=1)))
    return write_tensors(folder / PEFT_WEIGHTS, state, {"format": "pt"})


def _diffusers_name(lora: LoRA, module: str) -> str:
    name = DIT_DIFFUSERS.from_official(f"{module}.weight")
    if name is None:
        raise ValueError(f"{lora.where} adapts {module}, which has no name in diffusers: choose layout comfyui")
    return name.removesuffix(".weight")


def _scaled(pair: LowRank) -> Tensor:
    return (pair.scale * pair.up.float()).to(pair.up.dtype)
