"""Whether something fits into the memory there is, and what to change when it does not."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields, replace

from mvtrack.config.model import ModelConfig
from mvtrack.config.placement import OFFLOADS, Placement
from mvtrack.config.run import RunConfig
from mvtrack.config.training import TrainConfig
from mvtrack.inference.memory.encoders import encoder_phases
from mvtrack.inference.memory.inference import GIB, Estimate, Work, estimate_inference
from mvtrack.inference.sampler import SamplerOptions
from mvtrack.training.memory import TrainingEstimate, estimate_training


@dataclass(frozen=True)
class Step:
    """What a user types to get there, and the estimate with it."""

    typed: str
    estimate: Estimate | TrainingEstimate


@dataclass(frozen=True)
class Memory:
    """Bytes that are free. device: where the work is done. host: in the CPU's memory, which holds what rests there;
    None: nobody can tell. shared: the device is the CPU."""

    device: int
    host: int | None = None
    shared: bool = False

    def lacks(self, estimate: Estimate | TrainingEstimate) -> str:
        """What is too small for an estimate: "device", "host", or "" where it fits."""
        if estimate.peak + (estimate.host if self.shared else 0) > self.device:
            return "device"
        return "host" if self.host is not None and estimate.host > self.host else ""


@dataclass(frozen=True)
class Verdict:
    """steps: ways to take less, the cheapest in time first, until one fits."""

    estimate: Estimate | TrainingEstimate
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


def judge_inference(
    config: ModelConfig,
    size: tuple[int, int],
    num_frames: int,
    sample: SamplerOptions,
    placement: Placement,
    memory: Memory,
    work: Work | None = None,
) -> Verdict:
    """Whether a video of a size (H, W) can be made. work: None is all that making a video is, nothing being encoded."""
    work = work or Work()

    def estimate(placement: Placement) -> Estimate:
        return estimate_inference(config, size, num_frames, sample, placement, work)

    encoders = max(encoder_phases(config, placement, work.encoders).values(), default=0)
    ways = ((flags(placement, way), way) for way in _placements(config, placement, encoders > memory.device))
    return _verdict(estimate, placement, ways, memory)


def judge_training(config: RunConfig, world_size: int, memory: Memory) -> Verdict:
    """Whether a run's step fits on every device. memory: of one rank."""

    def estimate(train: TrainConfig) -> TrainingEstimate:
        return estimate_training(replace(config, train=train), world_size, "cpu" if memory.shared else "cuda")

    ways = ((overrides(config.train, way), way) for way in _settings(config, world_size))
    return _verdict(estimate, config.train, ways, memory)


def _verdict(estimate: Callable, given: object, ways: Iterator[tuple[str, object]], memory: Memory) -> Verdict:
    first, steps = estimate(given), []
    if memory.lacks(first):
        for typed, setting in ways:
            steps.append(Step(typed, estimate(setting)))
            if not memory.lacks(steps[-1].estimate):
                break
    return Verdict(first, memory, tuple(steps))


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
    for offload in ("blocks",) if placement.device == "cpu" else ("model", "blocks"):
        if OFFLOADS.index(offload) > OFFLOADS.index(placement.offload):
            placement = replace(placement, offload=offload, compile=placement.compile and offload != "blocks")
            if offload == "blocks":  # puts the encoders there by itself
                placement = replace(placement, encoders_on_cpu=given.encoders_on_cpu)
            yield placement


def _settings(config: RunConfig, world_size: int) -> Iterator[TrainConfig]:
    train = config.train
    changes: list[dict[str, object]] = [
        {"gradient_checkpointing": True, "checkpoint_keep": "attention"}, {"micro_batch_size": 1},
        {"checkpoint_blocks": None}, {"checkpoint_keep": "nothing"},
    ]  # fmt: skip
    if config.optim.name == "adamw":  # muon needs whole matrices
        changes += [{"zero_stage": stage} for stage in (2, 3)] if world_size > 1 else []
        changes += [{"zero_stage": 1, "offload_optimizer": True}, {"zero_stage": 3, "offload_parameters": True}]
    for change in changes:
        if change.get("gradient_checkpointing") and train.gradient_checkpointing:
            continue
        if "zero_stage" in change:
            change = change | {"zero_stage": max(train.zero_stage, change["zero_stage"])}
        changed = replace(train, **change)
        if changed != train:
            train = changed
            yield train


def flags(before: Placement, after: Placement) -> str:
    """Options of `mvtrack reshoot` that make one placement of another."""
    typed = [] if after.precision == before.precision else [f"--precision {after.precision}"]
    typed += ["--encoders-on-cpu"] if after.encoders_on_cpu != before.encoders_on_cpu else []
    typed += ["--tiled"] if after.tiled != before.tiled else []
    typed += [f"--offload {after.offload}"] if after.offload != before.offload else []
    dropped = [name for name in ("batched_guidance", "compile") if getattr(before, name) and not getattr(after, name)]
    return " ".join([*typed, *(f"(and no --{name.replace('_', '-')})" for name in dropped)])


def overrides(before: TrainConfig, after: TrainConfig) -> str:
    """Settings of a run that make one config of another, as a command takes them."""
    changed = [f.name for f in fields(TrainConfig) if getattr(before, f.name) != getattr(after, f.name)]
    shown = {"True": "true", "False": "false", "None": "null"}
    values = {name: str(getattr(after, name)) for name in changed}
    return " ".join(f"train.{name}={shown.get(value, value)}" for name, value in values.items())
