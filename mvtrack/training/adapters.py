"""Low-rank adapters in training: peft's layers in a network, and the way between their names and a model's.

peft keeps a layer's own weight as `NAME.base_layer.weight`, with `NAME.lora_A.default.weight` and `lora_B` beside it.
Networks that train and their checkpoints have these names; models and LoRA files have none of them.
"""

import fnmatch
import math
import re
import zlib
from collections.abc import Iterator, Mapping
from itertools import chain

import torch
from torch import Tensor, nn

from mvtrack.config.run import RunConfig
from mvtrack.config.training import LoRAConfig
from mvtrack.config.tree import from_tree
from mvtrack.models.diffusers_parts import peft_member
from mvtrack.models.networks import Network, empty_network
from mvtrack.models.weights.lora import LowRank
from mvtrack.training.checkpoint import CheckpointReader

_PART = re.compile(r"(?P<module>.+)\.lora_(?P<side>[AB])\.default\.weight")


def is_adapter(name: str) -> bool:
    """Whether a parameter is one of an adapter's two factors."""
    return _PART.fullmatch(name) is not None


def own_name(name: str) -> str:
    """What a parameter is called in the network without adapters."""
    return name.replace(".base_layer.", ".")


def empty_training_network(config: RunConfig) -> Network:
    """The network as it trains, with its adapters, without storage (meta tensors)."""
    network = empty_network(config.model)
    if config.optim.lora:
        add_adapters(network, config.optim.lora)
    return network


def add_adapters(network: nn.Module, lora: LoRAConfig) -> None:
    """Put peft's layers around the linear layers that match, in place, to be filled; nothing else is left to train.

    Raises ValueError for a pattern that matches no linear layer, and without peft.
    """
    linear = [name for name, module in network.named_modules() if isinstance(module, nn.Linear)]
    for pattern in lora.targets:
        known = any(fnmatch.fnmatch(name, pattern) for name in linear)
        if not known and pattern not in LoRAConfig().targets:  # a default may name a branch that is switched off
            raise ValueError(f"optim.lora.targets: {pattern!r} matches no linear layer; names look like {linear[-1]!r}")
    chosen = [name for name in linear if any(fnmatch.fnmatch(name, pattern) for pattern in lora.targets)]
    if not chosen:
        raise ValueError(f"optim.lora.targets {list(lora.targets)} match no linear layer; {linear[-1]!r} is one")
    settings = peft_member("LoraConfig")(
        r=lora.rank, lora_alpha=lora.scale * lora.rank, target_modules="|".join(map(re.escape, chosen)),
        init_lora_weights=False,
    )  # fmt: skip
    meta = next(network.parameters()).is_meta
    peft_member("inject_adapter_in_model")(settings, network, low_cpu_mem_usage=meta)


def with_adapters(network: nn.Module, weights: Iterator[tuple[str, Tensor]], seed: int) -> Iterator[tuple[str, Tensor]]:
    """Values for all parameters of a network: of its adapters (A as PyTorch's linear layers start, B zero, so that they
    add nothing yet) and then the given ones, which may be a model's, or a checkpoint's with adapters of their own."""
    names = {own_name(name): name for name, _ in network.named_parameters() if not is_adapter(name)}
    return chain(_first_values(network, seed), ((names.get(name, name), value) for name, value in weights))


def _first_values(network: nn.Module, seed: int) -> Iterator[tuple[str, Tensor]]:
    for name, parameter in network.named_parameters():
        part = _PART.fullmatch(name)
        if part is None:
            continue
        shape = tuple(getattr(parameter, "ds_shape", parameter.shape))
        bound = 1 / math.sqrt(shape[1]) if part["side"] == "A" else 0.0
        generator = torch.Generator().manual_seed(zlib.crc32(name.encode(), seed))  # as in init_weights.py
        yield name, torch.empty(shape).uniform_(-bound, bound, generator=generator)


def merged_weights(reader: CheckpointReader, kind: str) -> tuple[dict[str, Tensor], dict[str, LowRank]]:
    """A checkpoint's weights as a model has them, with its adapters added; and these, by module. kind: see there."""
    weights, lora = dict(reader.weights(kind)), reader.state.config["optim"].get("lora")
    if lora is None:
        return weights, {}
    pairs = _pairs(weights, from_tree(LoRAConfig, lora, where=f"{reader.folder}: optim.lora").scale)
    whole = {own_name(name): value for name, value in weights.items() if not is_adapter(name)}
    for module, pair in pairs.items():
        weight = whole[f"{module}.weight"]
        whole[f"{module}.weight"] = weight + pair.delta(weight.shape)
    return whole, pairs


def _pairs(weights: Mapping[str, Tensor], scale: float) -> dict[str, LowRank]:
    modules = [part["module"] for part in map(_PART.fullmatch, weights) if part and part["side"] == "A"]
    sides = lambda module: (weights[f"{module}.lora_{side}.default.weight"] for side in "AB")  # noqa: E731
    return {module: LowRank(*sides(module), scale) for module in modules}
