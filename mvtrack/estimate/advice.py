"""Whether something fits into the memory there is, and what to change when it does not."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields, replace

from mvtrack.backbone.placement import OFFLOADS, Placement
from mvtrack.config import ModelConfig, RunConfig, TrainConfig
from mvtrack.estimate.inference import GIB, Estimate, estimate_inference
from mvtrack.estimate.training import TrainingEstimate, estimate_training
from mvtrack.generate import SampleConfig


@dataclass(frozen=True)
class Step:
    """What a user types to get there, and the estimate with it."""

    typed: str
    estimate: Estimate | TrainingEstimate


@dataclass(frozen=True)
class Verdict:
    """steps: ways to take less, the cheapest in time first, until one fits. have: bytes."""

    estimate: Estimate | TrainingEstimate
    have: int
    steps: tuple[Step, ...] = ()

    @property
    def fits(self) -> bool:
        return self.estimate.peak <= self.have

    @property
    def advice(self) -> str:
        """What to change, as one phrase; empty where it fits."""
        if self.fits:
            return ""
        best = min(self.steps, key=lambda step: step.estimate.peak, default=None)
        if best is None:
            return "use fewer pixels or frames, or a larger device"
        need = f"about {best.estimate.peak / GIB:.1f} GiB"
        if best.estimate.peak <= self.have:
            return f"add {best.typed} ({need} then)"
        return f"even with {best.typed} it takes {need}: use fewer pixels or frames, or a larger device"


def judge_inference(
    config: ModelConfig, size: tuple[int, int], num_frames: int, sample: SampleConfig, placement: Placement, have: int
) -> Verdict:
    """Whether a video of a size (H, W) can be made with so many bytes on the device."""

    def estimate(placement: Placement) -> Estimate:
        return estimate_inference(config, size, num_frames, sample, placement)

    ways = ((flags(placement, way), way) for way in _placements(config, placement))
    return _verdict(estimate, placement, ways, have)


def judge_training(config: RunConfig, world_size: int, have: int) -> Verdict:
    """Whether a run's step fits into so many bytes on every device."""

    def estimate(train: TrainConfig) -> TrainingEstimate:
        return estimate_training(replace(config, train=train), world_size)

    ways = ((overrides(config.train, way), way) for way in _settings(config, world_size))
    return _verdict(estimate, config.train, ways, have)


def _verdict(estimate: Callable, given: object, ways: Iterator[tuple[str, object]], have: int) -> Verdict:
    first, steps = estimate(given), []
    if first.peak > have:
        for typed, setting in ways:
            steps.append(Step(typed, estimate(setting)))
            if steps[-1].estimate.peak <= have:
                break
    return Verdict(first, have, tuple(steps))


def _placements(config: ModelConfig, placement: Placement) -> Iterator[Placement]:
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
