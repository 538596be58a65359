"""`mvtrack train-refiner --out FOLDER`: what brings a small model's results to full resolution, for a model."""

import argparse
import sys
from dataclasses import fields
from pathlib import Path

from mvtrack.config.errors import run_command


def main(arguments: list[str] | None = None) -> int:
    """Parse, render, train; prints where the refiner is."""
    parser = argparse.ArgumentParser(
        prog="mvtrack train-refiner",
        description="Train the networks that bring results to the source's resolution, on rendered scenes and what a "
        "model makes of them.",
    )
    parser.add_argument("--model", help="whose results; default: the tiny model that ships")
    parser.add_argument("--out", type=Path, required=True, help="folder for refiner.safetensors and refiner.json")
    parser.add_argument("--examples", type=Path, help="folder for rendered clips and results; default: beside --out")
    parser.add_argument("--depth-scenes", type=int, help="rendered ones for depth by itself, the first stage")
    parser.add_argument("--depth-steps", type=int, help="0 skips the first stage")
    parser.add_argument("--scenes", type=int, help="rendered ones for depth and blend together, the second stage")
    parser.add_argument("--steps", type=int, help="0 skips the second stage")
    parser.add_argument("--clips", type=int, help="in one step")
    parser.add_argument("--lr", type=float)
    parser.add_argument("--start", type=Path, help="a refiner to go on from")
    parser.add_argument("--seed", type=int)
    parser.add_argument("--debug", action="store_true", help="show a traceback when something fails")
    options = parser.parse_args(arguments)
    return run_command(lambda: _train(options), parser.prog, options.debug)


def _train(options: argparse.Namespace) -> None:
    from mvtrack.inference.pipeline import shipped_model
    from mvtrack.models.refiner.files import FILE, load_refiner
    from mvtrack.models.reshoot_model import load_model
    from mvtrack.training.refiner import RefinerRun, train_refiner
    from mvtrack.training.refiner_data import RefinerScenes

    if (options.out / FILE).exists():
        raise ValueError(f"{options.out / FILE} exists already: choose another folder")
    given = {f.name: getattr(options, f.name, None) for f in fields(RefinerRun)}
    run = RefinerRun(**{name: value for name, value in given.items() if value is not None})
    scenes = RefinerScenes(options.examples or options.out.with_name(options.out.name + "_examples"), run.seed)
    start = None if options.start is None else load_refiner(options.start)
    options.out.mkdir(parents=True, exist_ok=True)
    train_refiner(load_model(options.model or shipped_model()), scenes, options.out, run, start)
    sys.stdout.write(f"{options.out / FILE}\n")


if __name__ == "__main__":
    sys.exit(main())
