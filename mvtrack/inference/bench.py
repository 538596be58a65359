"""What each option does to the time of a pass on this machine: blocks of a model's widths, random weights, by turns."""

import time
from collections.abc import Callable, Iterator
from copy import copy, deepcopy
from dataclasses import dataclass, replace
from functools import partial
from typing import get_args

import torch
from torch import Tensor

from mvtrack.config.model import ModelConfig
from mvtrack.config.placement import AttentionKernel, Quantization
from mvtrack.inference.cuda_graphs import RecordedPasses
from mvtrack.inference.memory.transformer import InputShape, random_inputs
from mvtrack.inference.quantization import quantize
from mvtrack.inference.ranks import Ranks
from mvtrack.models.attention import why_not
from mvtrack.models.conditioning import Conditioning
from mvtrack.models.dit import WanDiT, empty_dit
from mvtrack.models.pca_codec import build_codec
from mvtrack.models.reference_pass import ReferenceCache
from mvtrack.models.reshoot_model import ReshootModel

AS_IT_IS = "as it is"
Inputs = tuple[Tensor, Tensor, Conditioning]


@dataclass(frozen=True)
class Timing:
    """seconds: of a pass for one sample; None where the option does not work here, and `reason` says why."""

    option: str
    seconds: float | None
    reason: str = ""


@torch.no_grad()
def time_options(
    config: ModelConfig, layers: int, scene: InputShape, device: torch.device, dtype: torch.dtype, rounds: int
) -> list[Timing]:
    """Of so many layers, one option at a time beside the network as it is; without tracking head and losses' heads.
    Raises ValueError for a network of diffusers, and for a size that the model cannot take."""
    if config.dit is None:
        raise ValueError("the options that are compared are WanDiT's, this model's network is diffusers'")
    dit = replace(config.dit, num_layers=layers, full_attention_blocks=min(layers, config.dit.full_attention_blocks))
    config = replace(config, dit=dit, tap_layer=0, tracking=None, logit_heads=(), feature_projector=None)
    functions, failed = {}, []
    for option, build in _options(config, scene, device, dtype):
        try:
            functions[option] = build()
            functions[option]()
        except (ValueError, RuntimeError) as error:
            if option == AS_IT_IS:  # such as a size that the model cannot take
                raise
            functions.pop(option, None)
            failed.append(Timing(option, None, str(error).splitlines()[0].split(". ")[0]))
    seconds = {option: [] for option in functions}
    for _ in range(rounds):
        for option, function in functions.items():
            seconds[option].append(_timed(function, device))
    found = [Timing(option, min(values)) for option, values in seconds.items()]  # others can only slow it down
    return found + failed + _shared(config, scene, device, dtype, rounds)


def _options(
    config: ModelConfig, scene: InputShape, device: torch.device, dtype: torch.dtype
) -> Iterator[tuple[str, Callable[[], Callable[[], object]]]]:
    plain, inputs = _random_network(config, device, dtype), _inputs(config, scene, device)
    yield AS_IT_IS, lambda: partial(_run, plain, inputs)
    for kernel in get_args(AttentionKernel)[1:]:
        yield f"--attention {kernel}", partial(_with_kernel, plain, inputs, kernel, device)
    other = torch.float32 if dtype == torch.bfloat16 else torch.bfloat16
    yield f"--precision {str(other)[6:]}", lambda: partial(_run, deepcopy(plain).to(other), inputs)
    yield "--compile", partial(_changed, plain, inputs, lambda dit: dit.compile_blocks())
    yield "--cuda-graphs", partial(_recorded, plain, inputs, device)
    for kind in get_args(Quantization):
        quantized = partial(_changed, plain, inputs, lambda dit, kind=kind: quantize(dit.blocks, kind, device))
        yield f"--quantize {kind}", quantized
    if config.views is None and config.dit.reference_attention == "joint":
        yield "reference_attention: own", partial(_references_kept, config, plain, inputs, device, dtype)


def _with_kernel(plain: WanDiT, inputs: Inputs, kernel: AttentionKernel, device: torch.device) -> Callable[[], object]:
    width = plain.config.dim // plain.config.num_heads
    if (reason := why_not(kernel, device, plain.dtype, width, False)) is not None:
        raise ValueError(reason)
    network = copy(plain)  # the same weights
    network.attention = kernel
    return partial(_run, network, inputs)


def _recorded(plain: WanDiT, inputs: Inputs, device: torch.device) -> Callable[[], object]:
    if device.type != "cuda":
        raise ValueError("it is for a GPU")
    return partial(RecordedPasses().run, plain, *inputs)


def _changed(plain: WanDiT, inputs: Inputs, change: Callable[[WanDiT], None]) -> Callable[[], object]:
    network = deepcopy(plain)
    change(network)
    return partial(_run, network, inputs)


def _references_kept(
    config: ModelConfig, plain: WanDiT, inputs: Inputs, device: torch.device, dtype: torch.dtype
) -> Callable[[], object]:
    """A pass of which the references are computed already, as all are but the first of a sampling."""
    network = _random_network(replace(config, dit=replace(config.dit, reference_attention="own")), device, dtype)
    network.load_state_dict(plain.state_dict())
    network.reference_cache = ReferenceCache()
    return partial(_run, network, inputs)


def _shared(
    config: ModelConfig, scene: InputShape, device: torch.device, dtype: torch.dtype, rounds: int
) -> list[Timing]:
    """Over two devices, or processes of a CPU: guidance's two samples side by side, or one sample's tokens. Last,
    because they stay at work."""
    option, batch = "--gpus 2", 2 if config.text_dim or config.ray_drop else 1
    inputs = _inputs(config, replace(scene, batch=batch), device)
    if device.type == "cuda" and torch.cuda.device_count() < 2:
        return [Timing(option, None, "there is one GPU")]
    ranks = None
    try:
        network = _random_network(config, device, dtype)
        ranks = Ranks(ReshootModel(config, network, build_codec(config.codec), device), 2)
        function = partial(ranks.run, network, *inputs)
        function()
        return [Timing(option, min(_timed(function, device) for _ in range(rounds)) / batch)]
    except ValueError as error:
        return [Timing(option, None, str(error))]
    finally:
        if ranks is not None:
            ranks.close()


def _random_network(config: ModelConfig, device: torch.device, dtype: torch.dtype) -> WanDiT:
    network = empty_dit(config).to_empty(device=device).to(dtype).eval()
    for parameter in network.requires_grad_(False).parameters():
        parameter.normal_(std=0.02)
    return network


def _inputs(config: ModelConfig, scene: InputShape, device: torch.device) -> Inputs:
    latents, timestep, conditioning = random_inputs(config, scene)
    return latents.to(device), timestep.to(device), conditioning.to(device)


def _run(network: WanDiT, inputs: Inputs) -> Tensor:
    return network(*inputs).prediction


def _timed(function: Callable[[], object], device: torch.device) -> float:
    def now() -> float:
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return time.perf_counter()

    began = now()
    function()
    return now() - began
