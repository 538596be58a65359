"""Whether making a video fits into the memory there is, and what to change when it does not."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import torch

from mvtrack.config.model import ModelConfig
from mvtrack.config.placement import OFFLOADS, Placement
from mvtrack.data.clip import padded_length
from mvtrack.inference.machine import free_gib
from mvtrack.inference.memory.encoders import CAPTIONS, PICTURES, encoder_phases
from mvtrack.inference.memory.inference import GIB, Estimate, Work, estimate_inference
from mvtrack.inference.memory.transformer import InputShape
from mvtrack.inference.sampler import SamplerOptions
from mvtrack.models.networks import empty_network

_CLEARLY = 0.5  # of the memory that is free
_PHASES = {CAPTIONS: "the captions' encoder", PICTURES: "the encoder of pictures"}


@dataclass(frozen=True)
class Memory:
    """Bytes that are free. device: where the work is done. host: in the CPU's memory, which holds offloaded weights;
    None: nobody can tell. shared: the device is the CPU."""

    device: int
    host: int | None = None
    shared: bool = False

    def lacks(self, estimate) -> str:
        """What is too small for an estimate (with `peak` and `host`): "device", "host", or "" where it fits."""
        if estimate.peak + (estimate.host if self.shared else 0) > self.device:
            return "device"
        return "host" if self.host is not None and estimate.host > self.host else ""


@dataclass(frozen=True)
class Step:
    """What a user types to get there, and the estimate with it."""

    typed: str
    estimate: object


@dataclass(frozen=True)
class Verdict:
    """Of an `Estimate` or `TrainingEstimate`. steps: ways to take less, the cheapest in time first, until one fits."""

    estimate: object
    memory: Memory
    steps: tuple[Step, ...] = ()

    @property
    def fits(self) -> bool:
        return not self.memory.lacks(self.estimate)

    def problem(self, device: str) -> str:
        """What does not fit, as a phrase that follows what is done."""
        if self.memory.lacks(self.estimate) == "host":
            return f"leaves {_gib(self.estimate.host)} in the CPU's memory, which has {_gib(self.memory.host)} free"
        need = self.estimate.peak + (self.estimate.host if self.memory.shared else 0)
        return f"takes about {_gib(need)} and {device} has {_gib(self.memory.device)} free"

    @property
    def advice(self) -> str:
        """What to change, as one phrase; empty where it fits."""
        if self.fits:
            return ""
        fitting = [step for step in self.steps if not self.memory.lacks(step.estimate)]
        best = min(fitting or self.steps, key=lambda step: step.estimate.peak, default=None)
        if best is None:
            return "use fewer pixels or frames, or a larger device"
        need = f"about {_gib(best.estimate.peak)}"
        lacks = self.memory.lacks(best.estimate)
        if not lacks:
            return f"add {best.typed} ({need} then)"
        if lacks == "host":
            rests = f"{_gib(best.estimate.host)} would rest in the CPU's memory ({_gib(self.memory.host)} free)"
            return f"with {best.typed} {rests}: use a larger device, or free memory"
        return f"even with {best.typed} it takes {need}: use fewer pixels or frames, or a larger device"


def _gib(count: int) -> str:
    return f"{count / GIB:.1f} GiB"


def judge(estimate: Callable, setting: object, ways: Iterator[tuple[str, object]], memory: Memory) -> Verdict:
    """The verdict on a setting, with changes (what is typed, the setting then) tried in order until one fits."""
    first, steps = estimate(setting), []
    if memory.lacks(first):
        for typed, changed in ways:
            steps.append(Step(typed, estimate(changed)))
            if not memory.lacks(steps[-1].estimate):
                break
    return Verdict(first, memory, tuple(steps))


def free_memory(device: torch.device, ranks: int = 1) -> Memory | None:
    """What each of so many ranks has; None where the system does not tell."""
    host = free_gib(torch.device("cpu"))
    host = None if host is None else int(host * GIB / ranks)
    if device.type == "cpu":
        return None if host is None else Memory(host, shared=True)
    free = free_gib(device)
    return None if free is None else Memory(int(free * GIB), host)


def clearly_fits(
    config: ModelConfig, scene: InputShape, memory: Memory, bytes_per_value: int, bytes_per_weight: int, more: int = 0
) -> bool:
    """By a generous bound that is quick to tell, so that small models are not held up by an estimate.

    bytes_per_value: of a token's values; bytes_per_weight: of the weights; more: bytes beside them.
    """
    parameters, values = _bounds(config, scene)
    work = scene.batch * values * bytes_per_value
    have = memory.device if memory.host is None else min(memory.device, memory.host)
    return parameters * bytes_per_weight + work + more < _CLEARLY * have


def _bounds(config: ModelConfig, scene: InputShape) -> tuple[int, int]:
    """Parameters of a network, and values of all its tokens of one sample."""
    if dit := config.dit:
        parameters = dit.num_layers * dit.dim * (14 * dit.dim + 2 * dit.ffn_dim) + 30 * dit.dim * dit.dim
        return parameters, scene.tokens(config) * dit.dim
    unet, hunyuan = config.cat3d, config.hunyuan
    width = max(unet.block_channels) if unet else hunyuan.num_heads * hunyuan.head_dim
    cells = scene.views * scene.size[0] * scene.size[1] // config.codec.stride**2
    return sum(p.numel() for p in empty_network(config).parameters()), cells * width


def judge_inference(
    config: ModelConfig, size: tuple[int, int], num_frames: int, sample: SamplerOptions, placement: Placement,
    memory: Memory, work: Work | None = None,
) -> Verdict:  # fmt: skip
    """Whether a video of a size (H, W) can be made. work: None is all that making a video is, nothing being encoded."""
    work = work or Work()

    def estimate(placement: Placement) -> Estimate:
        return estimate_inference(config, size, num_frames, sample, placement, work)

    encoders = max(encoder_phases(config, placement, work.encoders).values(), default=0)
    ways = ((flags(placement, way), way) for way in _placements(config, placement, encoders > memory.device))
    return judge(estimate, placement, ways, memory)


def refuse_inference(
    config: ModelConfig, size: tuple[int, int], num_frames: int, sample: SamplerOptions, placement: Placement,
    work: Work | None = None,
) -> None:  # fmt: skip
    """Raise ValueError where making a video, or still views, of a size (H, W) takes more memory than is free, on the
    device or beside it on the CPU. work: see `judge_inference`."""
    device, work = placement.torch_device, work or Work()
    placement = replace(placement, device=str(device))
    memory = free_memory(device)
    frames = min(padded_length(num_frames), config.num_frames)
    views = work.views if config.views is None else config.views.count
    encoders = encoder_phases(config, placement, work.encoders).values()
    more = 0 if work.aligner is None else GIB // 2 + 512 * views * frames * size[0] * size[1]
    if memory is None or (
        (work.aligner is None or config.codec.kind == "pca")
        and all(needed < _CLEARLY * memory.device for needed in encoders)
        and clearly_fits(config, InputShape(size, frames, views=views), memory, 200, 12, more)
    ):
        return
    verdict = judge_inference(config, size, num_frames, sample, placement, memory, work)
    if not verdict.fits:
        worst = verdict.estimate.worst
        at_once = f"{frames} frames" if config.views is None else f"{views} views"
        what = _PHASES.get(worst, f"{worst} {size[0]}x{size[1]} pictures, {at_once} at a time,")
        raise ValueError(
            f"{what} {verdict.problem(str(device))}: {verdict.advice}; or start all the same with --ignore-memory"
        )


def _placements(config: ModelConfig, placement: Placement, encoders_too_large: bool) -> Iterator[Placement]:
    given = placement
    if encoders_too_large and placement.device != "cpu":
        placement = replace(placement, encoders_on_cpu=True)
        yield placement
    if placement.batched_guidance:
        placement = replace(placement, batched_guidance=False)
        yield placement
    if (placement.precision or config.sampling.precision) != "bfloat16":
        placement = replace(placement, precision="bfloat16")
        yield placement
    if config.codec.kind == "wan_vae" and config.codec.tile is None and not placement.tiled:
        placement = replace(placement, tiled=True)
        yield placement
    offloads = ["model"] * (placement.device != "cpu") + ["blocks"] * (config.dit is not None)
    offloads = [] if placement.gpus > 1 else offloads  # each holds all of the network
    for offload in offloads:
        if OFFLOADS.index(offload) > OFFLOADS.index(placement.offload):
            placement = replace(placement, offload=offload, compile=placement.compile and offload != "blocks")
            if offload == "blocks":  # puts the encoders there by itself
                placement = replace(placement, encoders_on_cpu=given.encoders_on_cpu)
            yield placement


def flags(before: Placement, after: Placement) -> str:
    """Options of `mvtrack reshoot` that make one placement of another."""
    typed = [] if after.precision == before.precision else [f"--precision {after.precision}"]
    typed += ["--encoders-on-cpu"] if after.encoders_on_cpu != before.encoders_on_cpu else []
    typed += ["--tiled"] if after.tiled != before.tiled else []
    typed += [f"--offload {after.offload}"] if after.offload != before.offload else []
    dropped = [name for name in ("batched_guidance", "compile") if getattr(before, name) and not getattr(after, name)]
    return " ".join([*typed, *(f"(and no --{name.replace('_', '-')})" for name in dropped)])
