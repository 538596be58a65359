"""What videos, or views of a still scene, will take from reading to writing, said before work begins."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from mvtrack.config.model import ModelConfig
from mvtrack.config.placement import Placement
from mvtrack.inference.full_resolution.plan import composition_bytes
from mvtrack.inference.machine import cpu_flops, gpu_name, gpu_peak_flops
from mvtrack.inference.memory.inference import GIB, Work, estimate_inference
from mvtrack.inference.sampler import SamplerOptions

LONG_S = 300
# Operations a pixel of what the CPU does beside the model, at the rate of its matrix products (measured at 854x480 and
# 1280x720, benchmarks/reshoot_720p.py).
_DECODING, _COMPOSING, _ENCODING = 2_000, 50_000, 5_000
# The share of a pass that a compiled block saves, and the seconds that compiling takes: of a CPU measured (5 %, 11 to
# 17 s of its time), of a GPU not.
_COMPILED = {"cpu": (0.05, 30.0), "cuda": (0.1, 60.0)}
_PROGRAM_BYTES = 6 << 27  # of Python, PyTorch and codecs, 0.75 GiB


@dataclass(frozen=True)
class VideoJob:
    """One video, or the pictures of new views. size: (H, W) of the model's picture. source: of the video or the first
    photograph. result: of one at full resolution, None where the model's own picture is the result. work, sample: see
    `estimate_inference`."""

    size: tuple[int, int]
    num_frames: int
    source: tuple[int, int]
    result: tuple[int, int] | None
    sample: SamplerOptions
    work: Work

    @property
    def pixel_flops(self) -> float:
        """Operations of the CPU: decoding, composition at full resolution, encoding."""
        shown = self.result or self.size if self.work.decodes else self.source
        made = _COMPOSING if self.result else _ENCODING
        views = 1 if self.work.decodes else self.work.views
        a_frame = _DECODING * self.source[0] * self.source[1] + made * shown[0] * shown[1]
        return float(self.num_frames * views * a_frame)


@dataclass(frozen=True)
class Expected:
    """seconds: of all videos, None where the GPU's speed is not known. memory: bytes, at the most."""

    seconds: float | None
    memory: float

    def __str__(self) -> str:
        time = "a time that is not known for this GPU" if self.seconds is None else f"about {_duration(self.seconds)}"
        return f"{time}, {self.memory / GIB:.1f} GiB (estimates)"


def expected(config: ModelConfig, jobs: Sequence[VideoJob], placement: Placement) -> Expected:
    """Time and memory of making videos one after the other."""
    device = placement.torch_device
    estimates = [estimate_inference(config, job.size, job.num_frames, job.sample, placement, job.work) for job in jobs]
    on_cpu, host, peak = device.type == "cpu", cpu_flops(), _peak_flops(device)
    seconds = None
    if peak is not None:
        seconds = sum(estimate.seconds(peak) for estimate in estimates) + sum(job.pixel_flops for job in jobs) / host
    held = [composition_bytes(job.result) if job.result else 0 for job in jobs]
    beside = [_PROGRAM_BYTES + more if on_cpu else 0 for more in held]
    return Expected(seconds, max(estimate.peak + more for estimate, more in zip(estimates, beside, strict=True)))


def settled(config: ModelConfig, jobs: Sequence[VideoJob], placement: Placement) -> Placement:
    """With `compile` as it pays, where nobody said: where what the network has to do is long enough, by the estimate,
    for a compiled block to save more than compiling takes."""
    can = config.dit is not None and placement.offload != "blocks" and not placement.cuda_graphs
    if placement.compile is not None or not can:
        return placement
    device = placement.torch_device
    if (peak := _peak_flops(device)) is None:
        return placement
    estimates = (estimate_inference(config, job.size, job.num_frames, job.sample, placement, job.work) for job in jobs)
    seconds = sum(replace(estimate, codec_flops=0.0).seconds(peak) for estimate in estimates)
    saved, cost = _COMPILED[device.type]
    return replace(placement, compile=saved * seconds > cost)


def forecast(config: ModelConfig, jobs: Sequence[VideoJob], placement: Placement) -> str | None:
    """Time and memory of making videos, where they take more than five minutes or a model that was not trained at their
    size; None for others."""
    ahead = expected(config, jobs, placement)
    if ahead.seconds is not None and ahead.seconds < LONG_S and all(job.size in config.sizes for job in jobs):
        return None
    return f"{_what(jobs, 'frames' if config.views is None else 'views')}: {ahead}"


def _peak_flops(device: torch.device) -> float | None:
    return cpu_flops() if device.type == "cpu" else gpu_peak_flops(gpu_name(device))


def _what(jobs: Sequence[VideoJob], pictures: str) -> str:
    if len(jobs) > 1:
        return f"{len(jobs)} videos, {sum(job.num_frames for job in jobs)} {pictures}"
    job = jobs[0]
    done = f"in {job.sample.steps} steps" if job.work.decodes else f"in {job.work.views} views"
    at_full = f", shown at {job.result[0]}x{job.result[1]}" if job.result else ""
    return f"{job.num_frames} {pictures} of {job.size[0]}x{job.size[1]} {done}{at_full}"


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
