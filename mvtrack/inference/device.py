"""Put a model where it is to work: device, precision, offloading, compilation, encoders from elsewhere."""

from collections.abc import Iterator, Mapping
from dataclasses import replace

import torch
from torch import Tensor, nn

from mvtrack.config.model import ModelConfig
from mvtrack.config.placement import Placement
from mvtrack.inference.quantization import quantize
from mvtrack.inference.ranks import Ranks, check_ranks
from mvtrack.models.dit import WanDiT
from mvtrack.models.encoder_sources import with_sources
from mvtrack.models.reshoot_model import ReshootModel
from mvtrack.models.wan_vae import WanVAECodec
from mvtrack.models.weights.lora import merge_all

TILE, TILE_STRIDE = (30, 52), (15, 26)  # rows and columns of latents


def place(model: ReshootModel, placement: Placement | None = None) -> ReshootModel:
    """The model, put where it is to work; its modules are changed in place.

    With `gpus` more processes start, which end with this one. Raises ValueError for a device that is not there,
    offloading without the package it takes, or a LoRA that does not fit the model.
    """
    placement = placement or Placement()
    config = placed_config(model.config, placement)
    device, dit = placement.torch_device, model.dit
    dtype = weights_dtype(model, placement)
    dit.attention = placement.attention
    merge_all(dit, placement.lora)
    if placement.offload == "blocks":
        _offload_blocks(dit, device, dtype)
    else:
        cast_transformer(dit, dtype)
    if placement.quantize:
        quantize(dit.blocks, placement.quantize, torch.device("cpu") if placement.offload == "model" else device)
    if placement.offload == "none":
        dit.to(device)
    if placement.offload != "model":
        model.codec.to(device)
    if placement.compile:
        dit.compile_blocks()
    model.codec.config = config.codec
    by_window = placement.share == "windows"
    model = replace(
        model, config=config, device=device, swapped=placement.offload == "model", ranks=None, window_ranks=None,
        batched_guidance=placement.batched_guidance or (placement.gpus % 2 == 0 and not by_window),
    )  # fmt: skip
    ranks = None if placement.gpus == 1 else Ranks(model, placement.gpus)
    if isinstance(model.codec, WanVAECodec):
        model.codec.share = None if by_window or ranks is None else ranks.code_tiles
    return replace(model, window_ranks=ranks) if by_window else replace(model, ranks=ranks)


def placed_config(config: ModelConfig, placement: Placement) -> ModelConfig:
    """How a model works there. Raises ValueError for tiles of a codec that has none, an encoder that it lacks, and what
    networks of diffusers have no use for."""
    if config.dit is None:
        unused = {"--offload blocks": placement.offload == "blocks", "--compile": placement.compile,
                  "--attention": placement.attention != "auto", "--gpus": placement.gpus > 1,
                  "--quantize": placement.quantize is not None}  # fmt: skip
        for flag in [flag for flag, given in unused.items() if given]:
            raise ValueError(f"{flag} is for WanDiT, this model's network is diffusers': leave it out")
    config = with_sources(config, placement.encoders)
    if placement.share == "windows":
        if placement.gpus == 1 or config.views is not None:
            raise ValueError("--share windows is for a video on several --gpus: leave it out")
    elif placement.gpus > 1:
        check_ranks(config, placement.gpus)
    if not placement.tiled:
        return config
    if config.codec.kind != "wan_vae":
        raise ValueError(f"tiles are for codec.kind wan_vae, this model's is {config.codec.kind}: leave out --tiled")
    return replace(config, codec=replace(config.codec, tile=TILE, tile_stride=TILE_STRIDE))


def weights_dtype(model: ReshootModel, placement: Placement) -> torch.dtype:
    """The precision that the transformer's weights get."""
    wanted = placement.precision or model.config.sampling.precision
    return model.dit.dtype if wanted == "stored" else getattr(torch, wanted)


def cast_transformer(module: nn.Module, dtype: torch.dtype) -> None:
    """All of the transformer but the tracking head, which counts in fractions of a pixel."""
    for name, child in module.named_children():
        if name != "tracking_head":
            child.to(dtype)
    for parameter in module.parameters(recurse=False):
        parameter.data = parameter.data.to(dtype)


def _offload_blocks(dit: WanDiT, device: torch.device, dtype: torch.dtype) -> None:
    """Blocks keep their weights on the CPU and get a copy on the device while they run.

    On a CPU the copy is made from what the file holds: beside mapped pages only one block lies in memory.
    """
    try:
        from accelerate.hooks import AlignDevicesHook, add_hook_to_module
    except ImportError as error:
        raise ValueError("--offload blocks needs the package accelerate: pip install -e '.[wan]'") from error
    for name, child in dit.named_children():
        if name not in ("blocks", "tracking_head"):
            child.to(device, dtype)
    if dit.tracking_head is not None:
        dit.tracking_head.to(device)
    for parameter in dit.parameters(recurse=False):
        parameter.data = parameter.data.to(device, dtype)
    for block in dit.blocks:
        kept = Resting({name: value.data for name, value in block.named_parameters()}, dtype, device)
        hook = AlignDevicesHook(device, offload=True, weights_map=kept, place_submodules=True)
        add_hook_to_module(block, hook)
        block.to(dtype)  # what is left of it is empty and tells the type only


class Resting(Mapping):
    """Weights that wait on the CPU. For a GPU they are converted once; for the CPU whenever they are needed."""

    def __init__(self, weights: dict[str, Tensor], dtype: torch.dtype, device: torch.device) -> None:
        self.weights = weights if device.type == "cpu" else {k: v.to(dtype) for k, v in weights.items()}
        self.dtype = dtype

    def __getitem__(self, name: str) -> Tensor:
        return self.weights[name].to(self.dtype)

    def __iter__(self) -> Iterator[str]:
        return iter(self.weights)

    def __len__(self) -> int:
        return len(self.weights)
