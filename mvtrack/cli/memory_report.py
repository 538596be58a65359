"""Estimates in words, for this machine or another: memory, time, what to change."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from mvtrack.config.model import ModelConfig
from mvtrack.config.placement import Placement
from mvtrack.config.run import RunConfig
from mvtrack.config.training import TrainingConfig
from mvtrack.inference.environment import CheckLine
from mvtrack.inference.machine import GPUS, cpu_flops, free_gib, gpu_memory_gib, gpu_peak_flops
from mvtrack.inference.memory.aligned import AlignerSize
from mvtrack.inference.memory.check_memory import Memory, Verdict, judge_inference
from mvtrack.inference.memory.codec import codec_cost
from mvtrack.inference.memory.encoders import encoders_of
from mvtrack.inference.memory.inference import GIB, UTILISATION, Estimate, Work, all_flops, estimate_inference, one_pass
from mvtrack.inference.memory.transformer import InputShape
from mvtrack.inference.sampler import SamplerOptions
from mvtrack.models.decoder.files import load_aligner
from mvtrack.training.memory import VIEW, judge_training, preparing_flops, preparing_phases
from mvtrack.training.pseudo_tracks.mvtap import mvtap_bytes, mvtap_flops
from mvtrack.training.pseudo_tracks.views import GridQueries
from tracking_head import MVTAPConfig

_COUNTS = (1, 2, 4, 8)  # GPUs of one machine
_VIEWS = 10  # of a scene of MultiCamVideo


@dataclass(frozen=True)
class Machine:
    """name: of a device. memory_gib: of each; None where nobody can tell. flops, flops32: at best, in bfloat16 and in
    float32; None: unknown. is_host: it is this machine's CPU. host_gib: free in the CPU's memory for each, where the
    machine is this one."""

    name: str
    count: int
    memory_gib: float | None
    flops: float | None
    is_host: bool = False
    host_gib: float | None = None
    flops32: float | None = None

    @property
    def memory(self) -> Memory:
        """As bytes; a device of unknown memory takes anything."""
        host = None if self.host_gib is None else int(self.host_gib * GIB)
        return Memory(int((self.memory_gib or 1e9) * GIB), host, self.is_host)

    @property
    def words(self) -> str:
        memory = "memory unknown" if self.memory_gib is None else f"{self.memory_gib:.1f} GiB each"
        return f"{self.count} x {self.name}, {memory}"


def machine_for_training(gpu: str | None, memory_gib: float | None, count: int | None) -> Machine:
    """The machine that the options describe; what they leave out is this one's."""
    return _machine(gpu, memory_gib, count or max(1, torch.cuda.device_count()), None)


def machine_for_inference(gpu: str | None, memory_gib: float | None, placement: Placement) -> Machine:
    """The same for one video's devices; processes share the CPU, and count as one."""
    machine = _machine(gpu, memory_gib, 1, placement)
    return machine if machine.is_host else replace(machine, count=placement.gpus)


def _machine(gpu: str | None, memory_gib: float | None, count: int, placement: Placement | None) -> Machine:
    if memory_gib is not None and memory_gib <= 0 or count < 1:
        raise ValueError(f"--gpu-memory and --gpus must be positive, got {memory_gib} and {count}")
    if gpu is not None:
        memory_gib = memory_gib or gpu_memory_gib(gpu)
        if memory_gib is None:
            raise ValueError(f"unknown GPU {gpu!r}: known are {', '.join(GPUS)}; for others give NAME:GIB")
        return Machine(gpu, count, memory_gib, gpu_peak_flops(gpu), flops32=gpu_peak_flops(gpu, torch.float32))
    if memory_gib is not None:
        return Machine("a GPU", count, memory_gib, None)
    device = placement.torch_device if placement else torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if device.type == "cuda":
        name = torch.cuda.get_device_name(device)
        single = gpu_peak_flops(name, torch.float32)
        return Machine(name, count, free_gib(device), gpu_peak_flops(name), host_gib=_share(count), flops32=single)
    single = cpu_flops(torch.float32) / count
    return Machine("this CPU", count, _share(count), cpu_flops() / count, True, flops32=single)


def _share(count: int) -> float | None:
    """Of the CPU's free memory."""
    free = free_gib(torch.device("cpu"))
    return None if free is None else free / count


def inference_lines(
    config: ModelConfig, machine: Machine, placement: Placement, size: tuple[int, int] | None = None,
    num_frames: int | None = None, decoder: Path | None = None,
) -> Iterator[CheckLine]:  # fmt: skip
    """What making one video takes. decoder: of an aligning decoder, where videos are decoded a second time."""
    token, frames = config.size_unit_px, num_frames or config.num_frames
    height, width = size or config.sizes[0]
    size = (-(-height // token) * token, -(-width // token) * token)
    sample = SamplerOptions.of(config)
    placement = replace(placement, device="cpu" if machine.is_host else "cuda")
    yield CheckLine("machine", machine.words)
    made = ("video", f"{frames} frames", f"guidance {sample.guidance:g}")
    if config.views is not None:
        made = ("views", f"{config.views.count} views", f"camera guidance {sample.camera_guidance:g}")
    yield CheckLine(made[0], f"{made[1]} of {size[0]}x{size[1]}, {sample.steps} steps, {made[2]}")
    aligner = None if decoder is None else AlignerSize.of(load_aligner(decoder, config.codec))
    work = Work(encoders_of(config), aligner=aligner)
    verdict = judge_inference(config, size, frames, sample, placement, machine.memory, work)
    for phase, needed in verdict.estimate.phases.items():
        yield CheckLine(phase, f"{needed / GIB:.1f} GiB")
    if verdict.estimate.host:
        yield CheckLine("resting on the CPU", f"{verdict.estimate.host / GIB:.1f} GiB")
    yield _time("the model takes", verdict, machine)
    yield _outcome(verdict, machine)
    if not machine.is_host and config.dit is not None:
        yield from _table(config, machine, placement, work, size, frames)


def _table(
    config: ModelConfig, machine: Machine, placement: Placement, work: Work, size: tuple[int, int], frames: int
) -> Iterator[CheckLine]:
    """This video on several of these GPUs, and by models that were trained to be faster."""
    sample = SamplerOptions.of(config)
    few = replace(sample, steps=min(4, sample.steps), guidance=1.0, camera_guidance=1.0)
    in_few = f"in {few.steps} steps, no guidance"
    ways = {"as it is": (config, sample), in_few: (config, few)}
    if config.dit.reference_attention == "joint":
        own = replace(config, dit=replace(config.dit, reference_attention="own"))
        ways |= {"references' keys kept": (own, sample), f"and in {few.steps} steps": (own, few)}
    yield _row("with --gpus", [str(count) for count in _COUNTS])
    there = [_on(placement, count) for count in _COUNTS]
    fit = [_pass(config, size, frames, sample, on) and on for on in there]
    found = [on and estimate_inference(config, size, frames, sample, on, work) for on in fit]
    for name, (model, options) in ways.items():
        cells = []
        for on, as_it_is in zip(there, found, strict=True):
            scene = as_it_is and _pass(model, size, frames, options, on)
            flops = scene and all_flops(model, scene, frames, options, on)
            cells.append(flops and _duration(replace(as_it_is, flops=flops), machine))
        yield _row(name, cells)
    yield _row("sampling, each", [e and f"{e.phases['sampling'] / GIB:.1f} GiB" for e in found])
    yield _row("each sends, all steps", [e and f"{e.sent / GIB:.0f} GiB" for e in found])


def _on(placement: Placement, count: int) -> Placement:
    """What several GPUs cannot do is left out for them."""
    if count == 1:
        return replace(placement, gpus=1, share="passes")
    return replace(placement, gpus=count, offload="none", quantize=None)


def _pass(
    model: ModelConfig, size: tuple[int, int], frames: int, sample: SamplerOptions, on: Placement
) -> InputShape | None:
    """None where so many cannot share the heads, or a frame's tokens."""
    try:
        return one_pass(model, size, frames, sample, on)
    except ValueError:
        return None


def _duration(estimate: Estimate, machine: Machine) -> str:
    if machine.flops is None:
        return f"{estimate.flops / estimate.ranks / 1e12:.0f} TFLOP"
    return f"{estimate.seconds(machine.flops):.3g} s"


def _row(name: str, cells: Sequence[str | None]) -> CheckLine:
    return CheckLine(name, "".join(f"{cell or '-':>12}" for cell in cells))


def training_lines(run: TrainingConfig, machine: Machine) -> Iterator[CheckLine]:
    """What a step takes on every rank, and all steps together."""
    train = run.train
    yield CheckLine("machine", machine.words)
    each = f"{train.batch_size} samples a step, {train.micro_batch_size} at once on a rank"
    yield CheckLine("batch", f"{each}, ZeRO stage {train.zero_stage}, {train.precision}")
    verdict = judge_training(run, machine.count, machine.memory)
    for part, needed in verdict.estimate.parts.items():
        if needed:
            yield CheckLine(part, f"{needed / GIB:.1f} GiB")
    yield CheckLine("activations", f"{verdict.estimate.work / GIB:.1f} GiB, gradients included")
    if verdict.estimate.host:
        yield CheckLine("in the CPU's memory", f"{verdict.estimate.host / GIB:.1f} GiB a rank")
    yield _time("a step takes", verdict, machine)
    if machine.flops:
        hours = verdict.estimate.seconds(machine.flops) * train.steps / 3600
        yield CheckLine(f"{train.steps} steps", f"about {hours:.0f} h" if hours >= 1 else f"about {hours * 60:.0f} min")
    yield _outcome(verdict, machine)


def data_lines(run: RunConfig, machine: Machine) -> Iterator[CheckLine]:
    """What making a training's data takes on one device: latents and captions of `mvtrack prepare`, and where tracks
    are trained on, those of `mvtrack pseudo-tracks --tracker mvtap` for a scene of ten views, as MultiCamVideo has.

    Raises ValueError where the codec is Wan's and DiffSynth, which has its network, is not installed.
    """
    model, data, device = run.model, run.data, "cpu" if machine.is_host else "cuda"
    entry = data.latents[0]
    for phase, needed in preparing_phases(run, entry, torch.device(device)).items():
        flops = preparing_flops(run, entry) if phase == VIEW else None
        yield _work(phase, needed, flops, machine, machine.flops)
    if model.views is not None or not (run.loss.tracking or run.loss.correspondence):
        return
    frames, points = data.num_frames, GridQueries().count
    needed, flops = (count(MVTAPConfig(), _VIEWS, frames, points) for count in (mvtap_bytes, mvtap_flops))
    yield _work(f"tracks of {_VIEWS} views", needed, flops, machine, machine.flops32, "MV-TAP in float32: ")
    work, sample = Work((), 2, decodes=False), SamplerOptions(1)
    pair = estimate_inference(model, entry.size, frames, sample, Placement(device), work)
    encoded = 2 * codec_cost(model.codec, entry.size, frames).encode_flops
    flops = (_VIEWS - 1) * (pair.flops + encoded)
    yield _work("where they begin", pair.peak, flops, machine, machine.flops, f"this model, {_VIEWS - 1} pairs: ")


def _work(
    name: str, needed: int, flops: float | None, machine: Machine, peak: float | None, what: str = ""
) -> CheckLine:
    text = f"{what}{needed / GIB:.1f} GiB"
    if machine.memory_gib is not None and needed > machine.memory_gib * GIB:
        text += f", more than the {machine.memory_gib:.1f} there are"
    if flops is not None:
        time = f"about {flops / (UTILISATION * peak):.3g} s" if peak else f"{flops / 1e12:.3g} TFLOP"
        text += f"; {time}, if {UTILISATION:.0%} of the peak are reached" if peak else f"; {time}"
    return CheckLine(name, text)


def _time(name: str, verdict: Verdict, machine: Machine) -> CheckLine:
    if machine.flops is None:
        return CheckLine(name, f"{verdict.estimate.flops / 1e12:.0f} TFLOP; the speed of {machine.name} is not known")
    seconds = verdict.estimate.seconds(machine.flops)
    shown = f"{seconds:.0f}" if seconds >= 10 else f"{seconds:.2g}"
    return CheckLine(name, f"about {shown} s, if {UTILISATION:.0%} of the peak are reached")


def _outcome(verdict: Verdict, machine: Machine) -> CheckLine:
    peak = f"{verdict.estimate.peak / GIB:.1f} GiB at most"
    if machine.memory_gib is None:
        return CheckLine("memory", peak)
    if verdict.fits:
        return CheckLine("fits", f"{peak}, of {machine.memory_gib:.1f}", True)
    if machine.memory.lacks(verdict.estimate) == "host":
        return CheckLine("does not fit", f"it {verdict.problem(machine.name)}: {verdict.advice}", False)
    return CheckLine("does not fit", f"{peak}, of {machine.memory_gib:.1f}: {verdict.advice}", False)
