"""`mvtrack doctor`: what is installed, what is missing, and what a model or a training will take."""

import argparse
import sys
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from mvtrack.config.errors import run_command
from mvtrack.inference.model_options import ENCODERS, add_placement_arguments, read_placement
from mvtrack.inference.shot_options import picture_size

SIGNS = {True: "ok ", False: "!! ", None: "   "}


def main(arguments: list[str] | None = None) -> int:
    """Parse and examine. Exit code 1 when something that is needed is missing or does not fit."""
    parser = argparse.ArgumentParser(
        prog="mvtrack doctor",
        description="Look at this installation; with --config, --model or --preset also at what that takes.",
    )
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--config", type=Path, help="of a training, see configs/")
    what.add_argument("--model", help="folder of a model, or its hub id")
    what.add_argument("--preset", help="a released model, such as recammaster_1.3b")
    parser.add_argument("--for", dest="purpose", choices=("train", "infer"), help="default: train with --config")
    machine = parser.add_argument_group("another machine than this one")
    machine.add_argument("--gpus", type=int, help="how many train together; default: those here, or 1")
    machine.add_argument("--gpu-memory", type=float, metavar="GIB", help="of each; default: what is free here")
    machine.add_argument("--gpu", help="its name, such as H100: tells memory and speed")
    video = parser.add_argument_group("the video")
    video.add_argument("--size", metavar="HxW", help="default: the model's own")
    video.add_argument("--frames", type=int, help="default: one window of the model")
    add_placement_arguments(parser)
    scores = parser.add_argument_group("evaluation")
    scores.add_argument("--eval", action="store_true", help="also what every metric needs, and what of it is there")
    scores.add_argument("--weights-dir", type=Path, help="folder of the metrics' weights; default: $MVTRACK_WEIGHTS")
    parser.add_argument("--hash", action="store_true", help="read weights that are there and compare their hashes")
    parser.add_argument("--debug", action="store_true", help="show a traceback when something fails")
    parser.add_argument("overrides", nargs="*", metavar="section.key=value", help="change settings of --config")
    options = parser.parse_intermixed_args(arguments)
    found: list[bool] = []
    code = run_command(lambda: found.append(_examine(options)), parser.prog, options.debug)
    return code or (0 if found == [True] else 1)


def _examine(options: argparse.Namespace) -> bool:
    """Print all sections; returns whether nothing that is needed is missing."""
    from mvtrack.config.placement import Placement
    from mvtrack.inference import environment as health
    from mvtrack.inference.device import placed_config

    purpose = options.purpose or ("train" if options.config else "infer")
    _refuse_unread(options, purpose)
    if purpose == "train" and not options.config and (options.model or options.preset):
        raise ValueError("a training is described by --config")
    config, run = _config(options) if options.config or options.model or options.preset else (None, None)
    wanted = run.train.attention if run and purpose == "train" else options.attention
    device = None if purpose == "train" else Placement(options.device).torch_device
    sections = [
        ("packages", health.packages()),
        ("devices", health.devices()),
        ("attention kernels, bfloat16", health.kernels(purpose == "train", wanted, device)),
        ("programs", health.programs()),
        ("weights in the hub's cache", health.weights(hash_them=options.hash)),
    ]
    fine = True
    for title, lines in sections:
        fine &= _show(title, lines)
    if options.eval:
        sys.stdout.write(_evaluation(options.weights_dir))
    if config is None:
        return fine
    from mvtrack.cli import memory_report as forecast

    if purpose == "infer":
        config = placed_config(config, read_placement(options))
    init_from = run.train.init_from if run and purpose == "train" else None
    named = health.needed_files(config, init_from, options.hash)
    fine &= _show("weights that it names", named)
    if purpose == "train":
        machine = forecast.machine_for_training(options.gpu, options.gpu_memory, options.gpus)
        lines = forecast.training_lines(run, machine)
    else:
        placement, size = read_placement(options), picture_size(options.size)
        machine = forecast.machine_for_inference(options.gpu, options.gpu_memory, placement)
        lines = forecast.inference_lines(config, machine, placement, size, options.frames)
    return _show(f"estimate: {'a training step' if purpose == 'train' else 'a video'}", lines) and fine


def _refuse_unread(options: argparse.Namespace, purpose: str) -> None:
    """Raises ValueError for options that nothing would read."""
    machine, video = ("gpus", "gpu_memory", "gpu"), ("size", "frames")
    works = ("device", "precision", "offload", "compile", "attention", "tiled", "batched_guidance", "encoders_on_cpu")
    works = (*works, *ENCODERS)
    if not (options.config or options.model or options.preset):
        unread = [*machine, *video, *(name for name in works if name not in ("device", "attention"))]
        why = "is about what a model or a training takes: name one with --config, --model or --preset"
    elif purpose == "train":
        unread, why = [*video, *works], "is for videos, a training has its settings: leave it out, or add --for infer"
    else:
        unread, why = ["gpus"], "is for training, a video is made on one: leave it out"
    given = [name for name in unread if getattr(options, name) not in (None, False, "auto", "none")]
    if given:
        raise ValueError(f"--{given[0].replace('_', '-')} {why}")


def _evaluation(weights: Path | None) -> str:
    """A metric that lacks something is no fault of the installation: its column says so."""
    from mvtrack.evaluation.readiness import readiness_text
    from mvtrack.evaluation.settings import load_settings

    known = load_settings()
    return readiness_text(replace(known, weights=weights or known.weights))


def _config(options: argparse.Namespace):
    """(model, run); run is None without --config."""
    from mvtrack.config.presets import preset
    from mvtrack.config.run import load_config
    from mvtrack.models.reshoot_model import read_config

    if options.config:
        run = load_config(options.config, options.overrides)
        return run.model, run
    if options.overrides:
        raise ValueError(f"{options.overrides[0]!r} changes a --config, which was not given")
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
