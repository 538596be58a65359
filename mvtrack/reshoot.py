"""`python mvtrack/reshoot.py video.mp4 --camera arc_left`; the same as `mvtrack reshoot`."""

import argparse
import sys
from pathlib import Path

from mvtrack.config.errors import run_command
from mvtrack.inference.model_options import (
    LESS_MEMORY,
    add_memory_argument,
    add_placement_arguments,
    add_sample_arguments,
    read_placement,
    read_sample,
)
from mvtrack.inference.shot_options import (
    add_resolution_argument,
    add_shot_arguments,
    add_track_arguments,
    read_shot,
    told_shot,
    track_plan,
)


def main(arguments: list[str] | None = None) -> int:
    """Parse, check, re-shoot; prints where the results are."""
    parser = argparse.ArgumentParser(
        prog="mvtrack reshoot", description="Re-shoot a video (or many) along a new camera path."
    )
    parser.add_argument(
        "video", type=Path, help="video file, GIF, image, folder of images; a folder of videos or a CSV"
    )
    add_shot_arguments(parser)
    add_track_arguments(parser)
    add_resolution_argument(parser)
    parser.add_argument("--model", help="folder with model.safetensors or hub id; default: the tiny model that ships")
    parser.add_argument("--out", type=Path, help="folder for the results; default outputs/<video>_<path>")
    add_sample_arguments(parser)
    parser.add_argument(
        "--window", type=int, metavar="FRAMES", help="frames that are made at once, 4n + 1; default: the model's own"
    )
    parser.add_argument(
        "--decoder", type=Path, metavar="FOLDER|tiny",
        help="decode a second time with this aligning decoder, so that the result follows the source to the pixel; "
        "tiny: the one that ships, for the tiny models. --depth gives the source's depth, else it is estimated",
    )  # fmt: skip
    add_placement_arguments(parser)
    add_memory_argument(parser)
    parser.add_argument("--overwrite", action="store_true", help="replace an existing output folder")
    parser.add_argument("--debug", action="store_true", help="show a traceback when something fails")
    options = parser.parse_args(arguments)
    return run_command(lambda: _reshoot(options), parser.prog, options.debug, LESS_MEMORY)


def _reshoot(options: argparse.Namespace) -> None:
    from mvtrack.inference.batch import is_batch, reshoot_batch
    from mvtrack.inference.pipeline import reshoot_file, shipped_model
    from mvtrack.models.reshoot_model import read_config

    if options.tracks and not options.model:
        _say("--tracks takes the shipped model with a tracking head, tiny_tracking; without it, tiny makes the video")
    sample = read_sample(options, read_config(options.model or shipped_model(bool(options.tracks))))
    if is_batch(options.video):
        reshoot_batch(options.video, options, sample)
        return
    shot = read_shot(options, options.video, sample, track_plan(options))
    shot = told_shot(shot, options)
    outputs = reshoot_file(
        options.video, shot.path, options.model, options.out, shot, options.overwrite, read_placement(options),
        check_memory=not options.ignore_memory, say=_say,
    )  # fmt: skip
    for note in outputs.notes:
        sys.stderr.write(f"mvtrack reshoot: {note}\n")
    for path in (outputs.side_by_side, outputs.video, *outputs.tracks):
        sys.stdout.write(f"{path}\n")


def _say(line: str) -> None:
    sys.stderr.write(f"mvtrack reshoot: {line}\n")


if __name__ == "__main__":
    sys.exit(main())
