"""Low-rank adapters (LoRA): files in the layouts that people share, told apart by names and added to a transformer.

peft `base_model.model.NAME.lora_A.weight`; diffusers `transformer.NAME.lora_A.weight`, with its own names of modules;
ComfyUI and kijai `diffusion_model.NAME.lora_down.weight` with `.alpha`, also `.diff` and `.diff_b` (whole differences
of weights and biases); kohya `lora_unet_NAME_WITH_UNDERSCORES.lora_down.weight`; DiffSynth
`NAME.lora_A.default.weight`, also behind `pipe.dit.`. A pair adds scale * up @ down to a weight; scale is alpha / rank
where alpha is known, else 1.
"""

import json
import math
import re
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor, nn

from mvtrack.models.weights.checkpoint import Checkpoint, open_checkpoint
from mvtrack.models.weights.naming import DIT_DIFFUSERS
from mvtrack.models.weights.sources import parse_hub, pipeline_folder

_LAYOUTS = {  # beginning of all keys: name
    "base_model.model.": "peft",
    "transformer.": "diffusers",
    "diffusion_model.": "ComfyUI",
    "lora_unet_": "kohya",
    "pipe.dit.": "DiffSynth",
    "": "DiffSynth",
}
_KEY = re.compile(r"(?P<module>.+?)\.(?:lora_(?P<side>A|B|down|up)(?:\.default)?\.weight|(?P<other>alpha|diff|diff_b))")
_SIDES = {"A": "down", "down": "down", "B": "up", "up": "up"}
PEFT_CONFIG, PEFT_WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
_SUFFIX = re.compile(r":(?P<weight>[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)$")


@dataclass(frozen=True)
class LowRank:
    """What is added to one weight: scale * up @ down."""

    down: Float[Tensor, "r *inputs"]
    up: Float[Tensor, "outputs r *ones"]
    scale: float

    def delta(self, shape: torch.Size) -> Float[Tensor, "*shape"]:
        return (self.scale * self.up.float().flatten(1) @ self.down.float().flatten(1)).view(shape)


@dataclass(frozen=True)
class LoRA:
    """where: the file. layout: whose names it had. pairs: by module; differences: by parameter. Names are the model's
    own (official), or such with underscores for dots in kohya's layout."""

    where: Path
    layout: str
    pairs: dict[str, LowRank]
    differences: dict[str, Tensor]


def split_weight(text: str) -> tuple[str, float]:
    """`FILE[:weight]`: the source, and by how much it counts (1)."""
    found = _SUFFIX.search(text)
    return (text[: found.start()], float(found["weight"])) if found else (text, 1.0)


def lora_file(source: str) -> Path:
    """A file, a folder of peft or with one safetensors file, or `owner/name:file` on the hub.

    Raises ValueError where there is none.
    """
    path = Path(source).expanduser()
    if path.is_file():
        return path
    if path.is_dir():
        if (path / PEFT_WEIGHTS).is_file():
            return path / PEFT_WEIGHTS
        files = sorted(path.glob("*.safetensors"))
        if len(files) != 1:
            raise ValueError(f"LoRA folder {path} holds {len(files)} safetensors files: name the one that is meant")
        return files[0]
    hub = parse_hub(source)
    if hub is None or hub.file is None:
        raise ValueError(f"LoRA {source} does not exist: give a file, a folder, or owner/name:file of the hub")
    return pipeline_folder(hub, (hub.file,)) / hub.file


def open_lora(path: Path) -> LoRA:
    """Read an adapter in any of the layouts. Raises ValueError for other files, and for such that are cut short."""
    checkpoint = open_checkpoint(path)
    prefix, layout = _layout(checkpoint)
    found: dict[str, dict[str, Tensor]] = {}
    for key in checkpoint.tensors:
        match = _KEY.fullmatch(key.removeprefix(prefix))
        if match is None:
            raise ValueError(
                f"{path}: {key} is no part of a LoRA that is known here (lora_A and lora_B, lora_down and lora_up, "
                "alpha, diff, diff_b)"
            )
        kind = match["other"] or _SIDES[match["side"]]
        found.setdefault(_official(match["module"]), {})[kind] = checkpoint.read(key)
    scale, pairs, differences = _peft_scale(path, checkpoint), {}, {}
    for module, parts in found.items():
        if ("down" in parts) != ("up" in parts):
            missing = "lora_B (or lora_up)" if "down" in parts else "lora_A (or lora_down)"
            raise ValueError(f"{path} is cut short: {module} has no {missing}")
        if "down" in parts:
            pairs[module] = _pair(path, module, parts, scale)
        for kind, parameter in (("diff", "weight"), ("diff_b", "bias")):
            if kind in parts:
                differences[f"{module}.{parameter}"] = parts[kind]
    if not pairs and not differences:
        raise ValueError(f"{path} holds no LoRA: it has {len(checkpoint.tensors)} tensors and no pair among them")
    return LoRA(path, layout, pairs, differences)


def merge_lora(network: nn.Module, lora: LoRA, weight: float = 1.0) -> None:
    """Add an adapter to a network's weights, in place; computed in float32.

    Raises ValueError, before anything is changed, for one that was made for another network: it says what does not fit.
    """
    modules = dict(network.named_modules())
    flat = {name.replace(".", "_"): name for name in modules} if lora.layout == "kohya" else {}
    additions: list[tuple[Tensor, LowRank | Tensor]] = []
    for name, pair in lora.pairs.items():
        module = modules.get(flat.get(name, name))
        target = getattr(module, "weight", None)
        if target is None:
            raise _misfit(lora, f"{name} is no layer of the model", modules)
        if (pair.up.shape[0], pair.down[0].numel()) != (target.shape[0], target[0].numel()):
            ours, theirs = list(target.shape), [pair.up.shape[0], *pair.down.shape[1:]]
            raise _misfit(lora, f"{name} is {theirs} there and {ours} in the model", modules)
        additions.append((target, pair))
    parameters = dict(network.named_parameters())
    for name, value in lora.differences.items():
        module, _, leaf = name.rpartition(".")
        target = parameters.get(f"{flat.get(module, module)}.{leaf}")
        if target is None or target.shape != value.shape:
            ours = "not in the model" if target is None else f"{list(target.shape)} in the model"
            raise _misfit(lora, f"{name} is {list(value.shape)} there and {ours}", modules)
        additions.append((target, value))
    for target, added in additions:
        delta = added.delta(target.shape) if isinstance(added, LowRank) else added.float()
        target.data = (target.data.float() + weight * delta.to(target.device)).to(target.dtype)


def merge_all(network: nn.Module, sources: tuple[str, ...]) -> None:
    """Add several adapters, each `FILE[:weight]`; all are read and checked against the network's names on the way."""
    for text in sources:
        source, weight = split_weight(text)
        merge_lora(network, open_lora(lora_file(source)), weight)


def _layout(checkpoint: Checkpoint) -> tuple[str, str]:
    keys = list(checkpoint.tensors)
    return next((p, name) for p, name in _LAYOUTS.items() if keys and all(key.startswith(p) for key in keys))


def _official(module: str) -> str:
    """The model's name of a module; diffusers' are translated, others kept."""
    translated = DIT_DIFFUSERS.to_official(f"{module}.weight")
    ours = module.startswith(("blocks.", "head.")) and ".attn" not in module and ".ffn.net." not in module
    return module if ours or translated is None else translated.removesuffix(".weight")


def _pair(path: Path, module: str, parts: dict[str, Tensor], scale: float | None) -> LowRank:
    down, up = parts["down"], parts["up"]
    rank = down.shape[0]
    if up.ndim < 2 or up.shape[1] != rank:
        raise ValueError(f"{path}: {module} has parts of different ranks, {rank} and {list(up.shape)}")
    alpha = parts.get("alpha")
    return LowRank(down, up, float(alpha) / rank if alpha is not None else scale or 1.0)


def _peft_scale(path: Path, checkpoint: Checkpoint) -> float | None:
    """What peft's settings say, beside the file or in its metadata. Raises ValueError for what is not plain LoRA."""
    beside = path.with_name(PEFT_CONFIG)
    if path.name == PEFT_WEIGHTS and beside.is_file():
        settings = json.loads(beside.read_text())
    else:
        stored = json.loads(checkpoint.metadata.get("lora_adapter_metadata", "{}"))
        settings = {name.removeprefix("transformer."): value for name, value in stored.items()}
    odd = [n for n in ("rank_pattern", "alpha_pattern", "use_dora", "modules_to_save") if settings.get(n)]
    if odd:
        raise ValueError(f"{path} uses peft's {odd[0]}, which is not read here: merge it with peft first")
    if "lora_alpha" not in settings:
        return None
    rank = settings["r"]
    return settings["lora_alpha"] / (math.sqrt(rank) if settings.get("use_rslora") else rank)


def _misfit(lora: LoRA, reason: str, modules: dict[str, nn.Module]) -> ValueError:
    blocks = [name for name in modules if re.fullmatch(r"blocks\.\d+", name)]
    return ValueError(
        f"LoRA {lora.where} ({lora.layout}'s names) does not fit: {reason}, which has {len(blocks)} blocks; it was "
        "made for another one"
    )
