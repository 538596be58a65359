"""Work that will not fit into memory is refused before it begins, with what to change."""

from dataclasses import replace

import torch

from mvtrack.config.model import ModelConfig
from mvtrack.config.placement import Placement
from mvtrack.config.run import RunConfig
from mvtrack.data.clip import padded_length
from mvtrack.inference.machine import free_gib
from mvtrack.inference.memory.advice import Memory, judge_inference, judge_training
from mvtrack.inference.memory.encoders import CAPTIONS, PICTURES, encoder_phases
from mvtrack.inference.memory.inference import GIB, Work
from mvtrack.inference.memory.transformer import InputShape, training_scene
from mvtrack.inference.sampler import SamplerOptions
from mvtrack.training import distributed

# Generous bounds that are quick to tell, so that small models are not held up by an estimate.
_BYTES_PER_TOKEN_VALUE = {"infer": 200, "train": 400}  # and block, in training without recomputing
_BYTES_PER_PARAMETER = {"infer": 12, "train": 40}
_CLEARLY = 0.5  # of the memory that is free


_DOING = {CAPTIONS: "the captions' encoder", PICTURES: "the encoder of pictures"}


def refuse_inference(
    config: ModelConfig,
    size: tuple[int, int],
    num_frames: int,
    sample: SamplerOptions,
    placement: Placement,
    work: Work | None = None,
) -> None:
    """Raise ValueError where making a video of a size (H, W) takes more memory than is free, on the device or beside it
    on the CPU. work: see `judge_inference`."""
    device, work = placement.torch_device, work or Work()
    placement = replace(placement, device=str(device))
    memory = free_memory(device)
    frames = min(padded_length(num_frames), config.num_frames)
    scene = InputShape(size, frames, views=work.views)
    if memory is None or _inference_clearly_fits(config, scene, placement, memory, work):
        return
    verdict = judge_inference(config, size, num_frames, sample, placement, memory, work)
    if not verdict.fits:
        worst = verdict.estimate.worst
        what = _DOING.get(worst, f"{worst} {size[0]}x{size[1]} pictures, {frames} frames at a time,")
        raise ValueError(
            f"{what} {verdict.problem(str(device))}: {verdict.advice}; or start all the same with --ignore-memory"
        )


def refuse_training(config: RunConfig, world_size: int, ranks_here: int) -> None:
    """Raise ValueError where a step takes more memory than this rank's device has free, or leaves more on the CPU than
    its share there; CPU ranks share one memory."""
    device = distributed.device()
    memory = free_memory(device, ranks_here)
    if memory is None:
        return
    if _clearly_fits(config.model, training_scene(config), "train", memory):
        return
    verdict = judge_training(config, world_size, memory)
    if not verdict.fits:
        raise ValueError(
            f"a rank's training step {verdict.problem(str(device))}: {verdict.advice}; or start all the same with "
            "--ignore-memory"
        )


def free_memory(device: torch.device, ranks: int = 1) -> Memory | None:
    """What each of so many ranks has; None where the system does not tell."""
    host = free_gib(torch.device("cpu"))
    host = None if host is None else int(host * GIB / ranks)
    if device.type == "cpu":
        return None if host is None else Memory(host, shared=True)
    free = free_gib(device)
    return None if free is None else Memory(int(free * GIB), host)


def _inference_clearly_fits(
    config: ModelConfig, scene: InputShape, placement: Placement, memory: Memory, work: Work
) -> bool:
    encoders = encoder_phases(config, placement, work.encoders)
    fits = all(needed < _CLEARLY * memory.device for needed in encoders.values())
    return fits and _clearly_fits(config, scene, "infer", memory)


def _clearly_fits(config: ModelConfig, scene: InputShape, what: str, memory: Memory) -> bool:
    dit = config.dit
    parameters = dit.num_layers * dit.dim * (14 * dit.dim + 2 * dit.ffn_dim) + 30 * dit.dim * dit.dim
    layers = config.dit.num_layers if what == "train" else 1
    work = scene.batch * scene.tokens(config) * config.dit.dim * layers * _BYTES_PER_TOKEN_VALUE[what]
    head = 2**30 if what == "train" and config.tracking is not None else 0
    have = memory.device if memory.host is None else min(memory.device, memory.host)
    return parameters * _BYTES_PER_PARAMETER[what] + work + head < _CLEARLY * have
