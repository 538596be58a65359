"""`mvtrack demo`: an unseen rendered scene, re-shot by the shipped model, beside the true view from that camera."""

import argparse
import sys
from pathlib import Path

from mvtrack.config.errors import run_command

SCENES = {"arc_left": 20.0, "pan_right": 12.0, "translate_up": 15.0}  # preset: angle in degrees


def main(arguments: list[str] | None = None) -> int:
    """Parse and make the demo's files."""
    parser = argparse.ArgumentParser(prog="mvtrack demo", description=__doc__)
    parser.add_argument("--out", default="outputs/demo", help="folder for the results")
    parser.add_argument("--model", help="folder with model.safetensors; default: the tiny model that ships")
    parser.add_argument("--debug", action="store_true", help="show a traceback when something fails")
    options = parser.parse_args(arguments)
    return run_command(lambda: _demo(options), parser.prog, options.debug)


def _demo(options: argparse.Namespace) -> None:
    from mvtrack.inference.demo import demonstrate

    for path in demonstrate(Path(options.out), options.model, SCENES):
        sys.stdout.write(f"{path}\n")


if __name__ == "__main__":
    sys.exit(main())
