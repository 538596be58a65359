"""First weights of a transformer, one parameter at a time, each from a generator of its own.

So the same seed gives the same model however it is built: at once, on many ranks, or partitioned as it is made.
"""

import math
import zlib
from collections.abc import Container, Iterator

import torch
from torch import Tensor, nn

from mvtrack.config.model import ModelConfig
from mvtrack.models.networks import Network, empty_network

# Of networks over still views: what the condition encoder adds starts at zero, and so do domains.
CONDITION_OUT = ("unet.add_conv_in.conv_out.", "condition_encoder.proj.")


def initial_weights(
    config: ModelConfig, seed: int, names: Container[str] | None = None
) -> Iterator[tuple[str, Tensor]]:
    """Name and first value (float32, CPU) of every parameter, in the model's order, or of those in `names`."""
    owners = dict(empty_network(config).named_modules())
    for name, parameter in owners[""].named_parameters():
        if names is not None and name not in names:
            continue
        owner_name, _, leaf = name.rpartition(".")
        generator = torch.Generator().manual_seed(zlib.crc32(name.encode(), seed))  # only 32 bits of a seed count
        initial = _initial_value if config.dit else _initial_view_value
        yield name, initial(name, leaf, owners[owner_name], tuple(parameter.shape), config, generator)


def _initial_value(
    name: str, leaf: str, owner: nn.Module, shape: tuple[int, ...], config: ModelConfig, generator: torch.Generator
) -> Tensor:
    normal = torch.empty(shape).normal_(generator=generator)
    if leaf == "modulation":
        return normal / shape[-1] ** 0.5 if config.dit.init == "wan" else _open_modulation(shape)
    if name == "role_embedding":
        return 0.02 * normal
    if name.startswith("tracking_head."):
        return _initial_head_value(name, shape, normal)
    if not isinstance(owner, (nn.Linear, nn.Conv2d, nn.Conv3d)):  # normalisation layers
        return torch.ones(shape) if leaf == "weight" else torch.zeros(shape)
    if ".camera_proj." in name and config.rays.proj_init == "zero":
        return torch.zeros(shape)
    if ".cam_encoder." in name or ".rope_phase_" in name:  # new branches leave their base as it is
        return torch.zeros(shape)
    if ".projector." in name:
        return torch.eye(shape[0]) if leaf == "weight" else torch.zeros(shape)
    if config.dit.init == "open_gates" and name.startswith(("time_projection.", "head.head.")):
        return 0.002 * normal if leaf == "weight" else torch.zeros(shape)
    return _default_value(name, leaf, owner, shape, generator)


def _initial_view_value(
    name: str, leaf: str, owner: nn.Module, shape: tuple[int, ...], _config: ModelConfig, generator: torch.Generator
) -> Tensor:
    """Networks of diffusers: a condition encoder and domains that say nothing yet, and for the rest as they and PyTorch
    start, but for the U-Net's layers, see `_unet_gain`."""
    if name.startswith((*CONDITION_OUT, "unet.class_embedding.", "unet.conv_out.")):
        return torch.zeros(shape)
    if isinstance(owner, (nn.Linear, nn.Conv2d)):
        value = _default_value(name, leaf, owner, shape, generator)
        return _unet_gain(name) * value if leaf == "weight" and name.startswith("unet.") else value
    if leaf in ("weight", "bias") and not isinstance(owner, nn.Embedding):
        return torch.ones(shape) if leaf == "weight" else torch.zeros(shape)
    normal = torch.empty(shape).normal_(generator=generator)
    return normal / math.sqrt(shape[-1]) if leaf == "positional_embedding" else normal


def _unet_gain(name: str) -> float:
    """What PyTorch's first weights are multiplied by, for references to reach the output from the start.

    Those shrink what passes through them to 1/sqrt(3), a dozen times between a reference and another view's output,
    which then is noise alone, and nothing is learned from it. Here layers keep the variance, residual branches of
    convolutions start at zero, and attention, the only way between views, is heard above the noise.
    """
    if ".resnets." in name and ".conv2." in name:
        return 0.0
    if ".ff.net.2." in name:
        return 0.1 * math.sqrt(3)
    if ".attentions." in name and any(part in name for part in (".to_v.", ".to_out.", ".proj_out.")):
        return 1.5 * math.sqrt(3)
    return math.sqrt(3)


def _default_value(
    name: str, leaf: str, owner: nn.Module, shape: tuple[int, ...], generator: torch.Generator
) -> Tensor:
    """PyTorch's default for linear and convolution layers."""
    bound = 1 / math.sqrt(owner.weight[0].numel())
    low = 0.0 if name.startswith("logit_heads.") and leaf == "weight" else -bound  # see LogitHead
    return torch.empty(shape).uniform_(low, bound, generator=generator)


def _initial_head_value(name: str, shape: tuple[int, ...], normal: Tensor) -> Tensor:
    """The tracking head: Xavier matrices, standard normal virtual tracks, outputs that hardly move a point at first."""
    if name.endswith("virtual_tracks"):
        return normal
    if ".to_shift." in name or ".to_logits." in name:
        return 1e-3 * normal if len(shape) == 2 else torch.zeros(shape)
    if len(shape) == 2:
        return normal * math.sqrt(2 / (shape[0] + shape[1]))
    return torch.ones(shape) if name.endswith("norm.weight") else torch.zeros(shape)


def _open_modulation(shape: tuple[int, ...]) -> Tensor:
    """From scratch, blocks learn sooner with residual gates (rows 2 and 5 of 6) at one and everything else at zero."""
    modulation = torch.zeros(shape)
    if shape[1] == 6:
        modulation[:, [2, 5]] = 1
    return modulation


@torch.no_grad()
def fill(dit: Network, weights: Iterator[tuple[str, Tensor]]) -> None:
    """Copy values into a model, one parameter at a time; a parameter that ZeRO-3 partitioned is gathered for it."""
    parameters = dict(dit.named_parameters())
    for name, value in weights:
        parameter = parameters[name]
        if hasattr(parameter, "ds_id"):
            import deepspeed

            with deepspeed.zero.GatheredParameters([parameter], modifier_rank=0):
                if parameter.numel():
                    parameter.data.copy_(value)
        else:
            parameter.data.copy_(value)
