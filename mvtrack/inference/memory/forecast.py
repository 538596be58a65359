"""What a video will take, said before work begins."""

from mvtrack.config.model import ModelConfig
from mvtrack.config.placement import Placement
from mvtrack.inference.machine import cpu_flops, gpu_name, gpu_peak_flops
from mvtrack.inference.memory.inference import GIB, Work, estimate_inference
from mvtrack.inference.sampler import SamplerOptions

LONG_S = 300


def forecast(
    config: ModelConfig,
    size: tuple[int, int],
    num_frames: int,
    sample: SamplerOptions,
    placement: Placement,
    work: Work,
) -> str | None:
    """Time and memory of making a video of a size (H, W) that the model was not trained at, or that takes more than
    five minutes; None for others."""
    estimate = estimate_inference(config, size, num_frames, sample, placement, work)
    device = placement.torch_device
    peak = cpu_flops() if device.type == "cpu" else gpu_peak_flops(gpu_name(device))
    seconds = None if peak is None else estimate.seconds(peak)
    if size in config.sizes and seconds is not None and seconds < LONG_S:
        return None
    time = "a time that is not known for this GPU" if seconds is None else f"about {_duration(seconds)}"
    return (
        f"{num_frames} frames of {size[0]}x{size[1]} in {sample.steps} steps: {time}, "
        f"{estimate.peak / GIB:.1f} GiB (estimates)"
    )


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
