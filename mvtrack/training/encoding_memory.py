"""Memory of encoding clips for training."""

import torch

from mvtrack.config.data import LatentsConfig
from mvtrack.config.placement import Placement
from mvtrack.config.run import RunConfig
from mvtrack.inference.memory.check_memory import free_memory
from mvtrack.inference.memory.codec import codec_bytes
from mvtrack.inference.memory.encoders import CAPTIONS, PICTURES, encoder_phases, encoders_of
from mvtrack.inference.memory.inference import GIB


def preparing_phases(config: RunConfig, entry: LatentsConfig, device: torch.device) -> dict[str, int]:
    """Bytes on the device: captions first, by an encoder that is gone then; views one by one, with CLIP beside."""
    model = config.model
    encoders = encoder_phases(model, Placement(device.type), encoders_of(model))
    codec = codec_bytes(model.codec, entry.size, config.data.num_frames)
    phases = {"the captions' encoder": encoders[CAPTIONS]} if CAPTIONS in encoders else {}
    return phases | {"encoding a view": codec.weights + codec.encode + encoders.get(PICTURES, 0)}


def refuse_preparing(config: RunConfig, entry: LatentsConfig, device: torch.device) -> None:
    """Raise ValueError where encoding a clip takes more memory than the device has free."""
    memory = free_memory(device)
    if memory is None:
        return
    for what, need in preparing_phases(config, entry, device).items():
        if need > memory.device:
            tiles = config.model.codec.kind == "wan_vae" and config.model.codec.tile is None and "view" in what
            advice = "--set model.codec.tile=[30,52]" if tiles else "use a larger device"
            advice += ", or --device cpu" if device.type == "cuda" else ""
            raise ValueError(
                f"{what} takes about {need / GIB:.1f} GiB and {device} has {memory.device / GIB:.1f} GiB free: "
                f"{advice}; or start all the same with --ignore-memory"
            )
