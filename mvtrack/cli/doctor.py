"""`mvtrack doctor`: what is installed, what is missing, and what a model or a training will take."""

import sys
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Literal

from mvtrack.config.checked import Count, Positive, config
from mvtrack.config.command_line import Command, changed_flags, option, overrides, refuse_unused, run, section
from mvtrack.config.placement import Placement
from mvtrack.config.sizes import picture_size
from mvtrack.inference.model_options import PLACEMENT

SIGNS = {True: "ok ", False: "!! ", None: "   "}


@config
class MachineOptions:
    """Another machine than this one."""

    gpus: Count | None = option(None, "how many train, or make a video, together; default: those here, or 1")
    gpu_memory: Positive | None = option(None, "of each; default: what is free here", metavar="GIB")
    gpu: str | None = option(None, "its name, such as H100: tells memory and speed")


@config
class VideoOptions:
    """The video whose cost is estimated."""

    size: tuple[int, int] | None = option(None, "default: the model's own", metavar="HxW", parse=picture_size)
    frames: Count | None = option(None, "default: one window of the model")
    decoder: Path | None = option(None, "folder of an aligning decoder that decodes it a second time")


@config(kw_only=True)
class DoctorCommand(Command):
    """Look at this installation; with --config, --model or --preset also at what that takes."""

    config: Path | None = option(None, "of a training, see configs/", alone="what")
    model: str | None = option(None, "folder of a model, or its hub id", alone="what")
    preset: str | None = option(None, "a released model, such as recammaster_1.3b", alone="what")
    purpose: Literal["train", "infer"] | None = option(None, "default: train with --config", flag="--for")
    machine: MachineOptions = section(MachineOptions, "another machine than this one")
    video: VideoOptions = section(VideoOptions, "the video")
    placement: Placement = section(Placement, PLACEMENT, without=("gpus",))  # it has --gpus already
    eval: bool = option(False, "also what every metric needs, and what of it is there")
    weights_dir: Path | None = option(None, "folder of the metrics' weights; default: $MVTRACK_WEIGHTS")
    hash: bool = option(False, "read weights that are there and compare their hashes")
    overrides: tuple[str, ...] = overrides("change settings of --config")

    @property
    def names_model(self) -> bool:
        """Whether there is something to estimate."""
        return bool(self.config or self.model or self.preset)


def main(arguments: list[str] | None = None) -> int:
    """Parse and examine. Exit code 1 when something that is needed is missing or does not fit."""
    found: list[bool] = []
    code = run(DoctorCommand, lambda options: found.append(_examine(options)), arguments, "mvtrack doctor")
    return code or (0 if found == [True] else 1)


def _examine(options: DoctorCommand) -> bool:
    """Print all sections; returns whether nothing that is needed is missing."""
    from mvtrack.inference import environment
    from mvtrack.inference.device import placed_config

    purpose = options.purpose or ("train" if options.config else "infer")
    _refuse_unread(options, purpose)
    if purpose == "train" and not options.config and (options.model or options.preset):
        raise ValueError("a training is described by --config")
    config, run = _config(options) if options.names_model else (None, None)
    wanted = run.train.attention if run and purpose == "train" else options.placement.attention
    placement = replace(options.placement, gpus=options.machine.gpus or 1)
    device = None if purpose == "train" else options.placement.torch_device
    sections = [
        ("packages", environment.packages()),
        ("devices", environment.devices()),
        ("attention kernels, bfloat16", environment.kernels(purpose == "train", wanted, device)),
        ("programs", environment.programs()),
        ("weights in the hub's cache", environment.weights(hash_them=options.hash)),
    ]
    fine = True
    for title, lines in sections:
        fine &= _show(title, lines)
    if options.eval:
        sys.stdout.write(_evaluation(options.weights_dir))
    if config is None and run is None:
        return fine
    from mvtrack.cli import memory_report

    machine = options.machine
    if config is None:
        if purpose == "infer":
            raise ValueError(f"{options.config} trains an aligning decoder: leave out --for infer")
        here = memory_report.machine_for_training(machine.gpu, machine.gpu_memory, machine.gpus)
        fine &= _show("weights that it names", environment.decoder_files(run.decoder, options.hash))
        return fine & _show("estimate: a training step", memory_report.training_lines(run, here))
    if purpose == "infer":
        config = placed_config(config, placement)
    init_from = run.train.init_from if run and purpose == "train" else None
    named = environment.needed_files(config, init_from, options.hash)
    fine &= _show("weights that it names", named)
    if purpose == "train":
        here = memory_report.machine_for_training(machine.gpu, machine.gpu_memory, machine.gpus)
        lines = memory_report.training_lines(run, here)
    else:
        here = memory_report.machine_for_inference(machine.gpu, machine.gpu_memory, placement)
        video = options.video
        lines = memory_report.inference_lines(config, here, placement, video.size, video.frames, video.decoder)
    fine &= _show(f"estimate: {'a training step' if purpose == 'train' else 'a video'}", lines)
    if purpose == "train" and run.data.latents:
        fine &= _show("estimate: its data, on one device", memory_report.data_lines(run, here))
    return fine


def _refuse_unread(options: DoctorCommand, purpose: str) -> None:
    """Raises ValueError for options that nothing would read."""
    if options.overrides and not options.config:
        raise ValueError(f"{options.overrides[0]!r} changes a --config, which was not given")
    if not options.names_model:
        unread = set(changed_flags(options, "machine", "video", "placement")) - {"--device", "--attention"}
        if unread:
            raise ValueError(f"{min(unread)} is about what a model takes: name one with --config, --model or --preset")
    elif purpose == "train":
        refuse_unused(
            options, "video", "placement",
            why="it is for videos, a training has its settings: leave it out, or add --for infer",
        )  # fmt: skip


def _evaluation(weights: Path | None) -> str:
    """A metric that lacks something is no fault of the installation: its column says so."""
    from mvtrack.evaluation.readiness import readiness_text
    from mvtrack.evaluation.settings import load_settings

    known = load_settings()
    return readiness_text(replace(known, weights=weights or known.weights))


def _config(options: DoctorCommand):
    """(model, run); run is None without --config, model for the training of an aligning decoder."""
    from mvtrack.config.decoder import DecoderRunConfig
    from mvtrack.config.presets import preset
    from mvtrack.config.run import load_training_config
    from mvtrack.models.reshoot_model import read_config

    if options.config:
        run = load_training_config(options.config, options.overrides)
        return (None if isinstance(run, DecoderRunConfig) else run.model), run
    return (read_config(options.model) if options.model else preset(options.preset)), None


def _show(title: str, lines: Iterable) -> bool:
    sys.stdout.write(f"{title}\n")
    fine = True
    for line in lines:
        fine &= line.fine is not False
        sys.stdout.write(f"  {SIGNS[line.fine]}{line.name:<24} {line.text}\n")
        sys.stdout.flush()
    return fine


if __name__ == "__main__":
    sys.exit(main())
