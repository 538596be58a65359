"""`mvtrack export CHECKPOINT FOLDER`: a checkpoint's averaged weights as one model file."""

import argparse
import sys
from pathlib import Path

from mvtrack.command import run_command


def main(arguments: list[str] | None = None) -> int:
    """Parse and export."""
    parser = argparse.ArgumentParser(prog="mvtrack export", description="Write a checkpoint as one safetensors file.")
    parser.add_argument("checkpoint", type=Path, help="a folder checkpoints/step_... of a run")
    parser.add_argument("out", type=Path, help="folder for model.safetensors")
    parser.add_argument("--live", action="store_true", help="the weights as trained, instead of their average")
    parser.add_argument(
        "--without-logit-heads", action="store_true", help="leave out what only the correspondence loss needs"
    )
    parser.add_argument(
        "--part", choices=("model", "tracking_head"), default="model",
        help="tracking_head: the head alone, for tracking_head.load_head; then a run or a model will do, too",
    )  # fmt: skip
    parser.add_argument("--debug", action="store_true", help="show a traceback when something fails")
    options = parser.parse_args(arguments)
    return run_command(lambda: _export(options), parser.prog, options.debug)


def _export(options: argparse.Namespace) -> None:
    from mvtrack.training.export import export_checkpoint, export_head

    kind = "weight" if options.live else "ema"
    if options.part == "tracking_head":
        path = export_head(options.checkpoint, options.out, kind)
    else:
        path = export_checkpoint(options.checkpoint, options.out, kind, logit_heads=not options.without_logit_heads)
    sys.stdout.write(f"{path}\n")


if __name__ == "__main__":
    sys.exit(main())
