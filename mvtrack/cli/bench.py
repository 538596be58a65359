"""`mvtrack bench`: which options make a model faster on this machine."""

import sys
from typing import Literal

from mvtrack.config.checked import Count, config
from mvtrack.config.command_line import Command, option, run
from mvtrack.config.placement import Placement
from mvtrack.config.sizes import picture_size

_CPU_FRAMES = 5  # a window would take minutes a block


@config(kw_only=True)
class BenchCommand(Command):
    """Time a pass as it is and with each option: kernels, precision, compilation, fewer bits, kept references, two
    devices. Blocks of the model's widths with random weights: nothing is downloaded."""

    model: str | None = option(None, "folder of a model, or its hub id; default: the shipped one", alone="what")
    preset: str | None = option(None, "a released model, such as recammaster_1.3b", alone="what")
    size: tuple[int, int] | None = option(None, "default: the model's own", metavar="HxW", parse=picture_size)
    frames: Count | None = option(None, f"default: one window of the model; on a CPU {_CPU_FRAMES}")
    layers: Count = option(2, "blocks that are run; the rest is foretold from them")
    rounds: Count = option(5, "passes of each option, by turns; the fastest counts")
    device: str = option("auto", "cpu, cuda or cuda:1; default: a GPU where there is one")
    precision: Literal["float32", "bfloat16"] | None = option(None, "default: the model's own wish")


def main(arguments: list[str] | None = None) -> int:
    """Parse and measure."""
    return run(BenchCommand, _bench, arguments, "mvtrack bench")


def _bench(options: BenchCommand) -> None:
    import torch

    from mvtrack.config.presets import preset
    from mvtrack.data.clip import padded_length
    from mvtrack.inference.bench import AS_IT_IS, time_options
    from mvtrack.inference.machine import gpu_name
    from mvtrack.inference.memory.transformer import InputShape
    from mvtrack.inference.pipeline import shipped_model
    from mvtrack.models.reshoot_model import read_config

    device = Placement(options.device).torch_device
    model = preset(options.preset) if options.preset else read_config(options.model or shipped_model())
    size, layers = options.size or model.sizes[0], min(options.layers, model.num_layers)
    if any(side % model.size_unit_px for side in size):
        raise ValueError(f"--size {size[0]}x{size[1]} is not divisible by the model's token size {model.size_unit_px}")
    wish = options.precision or model.sampling.precision
    dtype = torch.bfloat16 if wish == "bfloat16" else torch.float32
    window = _CPU_FRAMES if device.type == "cpu" else model.num_frames
    frames = 1 if model.views else padded_length(options.frames or window)
    scene = InputShape(size, frames, views=2 if model.views is None else model.views.count)
    shown = f"{size[0]}x{size[1]}, {frames} frames, {scene.views} views: {scene.tokens(model)} tokens"
    machine = gpu_name(device) if device.type == "cuda" else f"CPU, {torch.get_num_threads()} threads"
    sys.stdout.write(f"{machine}, {str(dtype)[6:]}, {layers} of {model.num_layers} blocks, {shown}\n")
    timings = time_options(model, layers, scene, device, dtype, options.rounds)
    base = next(timing.seconds for timing in timings if timing.option == AS_IT_IS)
    for timing in timings:
        if timing.seconds is None:
            sys.stdout.write(f"{timing.option:<26}       -   {timing.reason}\n")
        else:
            sys.stdout.write(
                f"{timing.option:<26}{1000 * timing.seconds / layers:8.1f} ms a block {timing.seconds / base:6.2f} x\n"
            )
    sys.stdout.write(f"a pass of all blocks as it is: about {base * model.num_layers / layers:.3g} s\n")


if __name__ == "__main__":
    sys.exit(main())
