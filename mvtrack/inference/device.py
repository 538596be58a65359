"""Put a model where it is to work: device, precision, offloading, compilation, encoders from elsewhere."""

from dataclasses import replace

import torch
from torch import nn

from mvtrack.config.model import ModelConfig
from mvtrack.config.placement import Placement
from mvtrack.inference.cuda_graphs import RecordedPasses
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
    if placement.cuda_graphs and device.type != "cuda":
        raise ValueError(f"--cuda-graphs is for a GPU, the device is {device}: leave it out")
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
    model.codec.config = config.codec
    if placement.compile:
        dit.compile_blocks(or_not=True)
    by_window = placement.share == "windows"
    model = replace(
        model, config=config, device=device, swapped=placement.offload == "model",
        passes=RecordedPasses() if placement.cuda_graphs else None, window_ranks=None,
        batched_guidance=placement.batched_guidance or (placement.gpus % 2 == 0 and not by_window),
    )  # fmt: skip
    ranks = None if placement.gpus == 1 else Ranks(model, placement.gpus)
    if isinstance(model.codec, WanVAECodec):
        model.codec.share = None if by_window or ranks is None else ranks.code_tiles
        model.codec.compiled = bool(placement.compile)
    if ranks is None:
        return model
    return replace(model, window_ranks=ranks) if by_window else replace(model, passes=ranks)


def placed_config(config: ModelConfig, placement: Placement) -> ModelConfig:
    """How a model works there. Raises ValueError for tiles of a codec that has none, an encoder that it lacks, and what
    networks of diffusers have no use for."""
    if config.dit is None:
        unused = {"--offload blocks": placement.offload == "blocks", "--compile": placement.compile,
                  "--attention": placement.attention != "auto", "--gpus": placement.gpus > 1,
                  "--quantize": placement.quantize is not None, "--cuda-graphs": placement.cuda_graphs}  # fmt: skip
        for flag in [flag for flag, given in unused.items() if given]:
            raise ValueError(f"{flag} is for WanDiT, this model's network is diffusers': leave it out")
    elif placement.cuda_graphs and config.dit.reference_attention == "own":
        raise ValueError("--cuda-graphs records whole passes, this model computes its source once: leave it out")
    config = with_sources(config, placement.encoders)
    if placement.share == "windows":
        if placement.gpus == 1 or config.views is not None:
            raise ValueError("--share windows is for a video on several --gpus: leave it out")
    elif placement.gpus > 1:
        check_ranks(config, placement.gpus)
    codec = config.codec
    for flag, given in (("--tiled", placement.tiled), ("--vae-precision", placement.vae_precision)):
        if given and codec.kind != "wan_vae":
            raise ValueError(f"{flag} is for codec.kind wan_vae, this model's is {codec.kind}: leave it out")
    if placement.tiled:
        codec = replace(codec, tile=TILE, tile_stride=TILE_STRIDE)
    return replace(config, codec=replace(codec, precision=placement.vae_precision or codec.precision))


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
    """Blocks keep their weights on the CPU; all else of the transformer goes to the device."""
    try:
        from mvtrack.inference.block_offload import offload
    except ImportError as error:
        raise ValueError("--offload blocks needs the package accelerate: pip install -e '.[wan]'") from error
    for name, child in dit.named_children():
        if name not in ("blocks", "tracking_head"):
            child.to(device, dtype)
    if dit.tracking_head is not None:
        dit.tracking_head.to(device)
    for parameter in dit.parameters(recurse=False):
        parameter.data = parameter.data.to(device, dtype)
    offload(dit.blocks, device, dtype)
