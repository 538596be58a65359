"""Work that will not fit into memory is refused before it begins, with what to change."""

from dataclasses import replace

from mvtrack.backbone.placement import Placement
from mvtrack.config import ModelConfig, RunConfig
from mvtrack.estimate.advice import judge_inference, judge_training
from mvtrack.estimate.inference import GIB
from mvtrack.estimate.transformer import Scene, training_scene
from mvtrack.generate import SampleConfig
from mvtrack.machine import free_gib
from mvtrack.training import distributed
from mvtrack.video_clip import padded_length

# Generous bounds that are quick to tell, so that small models are not held up by an estimate.
_BYTES_PER_TOKEN_VALUE = {"infer": 200, "train": 400}  # and block, in training without recomputing
_BYTES_PER_PARAMETER = {"infer": 12, "train": 40}
_CLEARLY = 0.5  # of the memory that is free


def refuse_inference(
    config: ModelConfig, size: tuple[int, int], num_frames: int, sample: SampleConfig, placement: Placement
) -> None:
    """Raise ValueError where making a video of a size (H, W) takes more memory than the device has free."""
    device = placement.torch_device
    have = free_gib(device)
    frames = min(padded_length(num_frames), config.num_frames)
    if have is None or _clearly_fits(config, Scene(size, frames), "infer", have):
        return
    placement = replace(placement, device=str(device))
    verdict = judge_inference(config, size, num_frames, sample, placement, int(have * GIB))
    if not verdict.fits:
        raise ValueError(
            f"{verdict.estimate.worst} {size[0]}x{size[1]} pictures, {frames} frames at a time, takes about "
            f"{verdict.estimate.peak / GIB:.1f} GiB and {device} has {have:.1f} GiB free: {verdict.advice}; or start "
            "all the same with --ignore-memory"
        )


def refuse_training(config: RunConfig, world_size: int, ranks_here: int) -> None:
    """Raise ValueError where a step takes more memory than this rank's device has free; CPU ranks share one memory."""
    device = distributed.device()
    have = free_gib(device)
    if have is None:
        return
    have = have if device.type == "cuda" else have / ranks_here
    if _clearly_fits(config.model, training_scene(config), "train", have):
        return
    verdict = judge_training(config, world_size, int(have * GIB))
    if not verdict.fits:
        raise ValueError(
            f"a training step takes about {verdict.estimate.peak / GIB:.1f} GiB a rank and {have:.1f} GiB are free on "
            f"{device}: {verdict.advice}; or start all the same with --ignore-memory"
        )


def _clearly_fits(config: ModelConfig, scene: Scene, what: str, have_gib: float) -> bool:
    dit = config.dit
    parameters = dit.num_layers * dit.dim * (14 * dit.dim + 2 * dit.ffn_dim) + 30 * dit.dim * dit.dim
    layers = config.dit.num_layers if what == "train" else 1
    work = scene.batch * scene.tokens(config) * config.dit.dim * layers * _BYTES_PER_TOKEN_VALUE[what]
    head = 2**30 if what == "train" and config.tracking is not None else 0
    return parameters * _BYTES_PER_PARAMETER[what] + work + head < _CLEARLY * have_gib * GIB
