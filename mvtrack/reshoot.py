"""`python mvtrack/reshoot.py video.mp4 --camera arc_left`; the same as `mvtrack reshoot`."""

import argparse
import sys

from mvtrack.command import run_command
from mvtrack.trajectory import PRESETS, SPEEDS, CameraPath


def main(arguments: list[str] | None = None) -> int:
    """Parse, check, re-shoot; prints where the results are."""
    parser = argparse.ArgumentParser(prog="mvtrack reshoot", description="Re-shoot a video along a new camera path.")
    parser.add_argument("video", help="any video file that ffmpeg reads")
    parser.add_argument("--camera", required=True, metavar="PRESET", help=f"one of {', '.join(PRESETS)}")
    parser.add_argument("--amount", type=float, help="degrees for pan, tilt, arc; metres for zoom, translate")
    parser.add_argument("--speed", default="linear", help=f"one of {', '.join(SPEEDS)}")
    parser.add_argument("--start", type=float, default=0.0, help="share of the motion done in the first frame, 0-1")
    parser.add_argument("--subject-distance", type=float, default=4.0, help="distance of the subject in metres")
    parser.add_argument("--fov", type=float, default=50.0, help="horizontal field of view of the video, degrees")
    parser.add_argument("--model", help="folder with model.safetensors; default: the tiny model that ships")
    parser.add_argument("--out", help="folder for the results; default outputs/<video>_<preset>")
    parser.add_argument("--steps", type=int, default=8, help="sampling steps")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--overwrite", action="store_true", help="replace an existing output folder")
    parser.add_argument("--debug", action="store_true", help="show a traceback when something fails")
    options = parser.parse_args(arguments)
    return run_command(lambda: _reshoot(options), parser.prog, options.debug)


def _reshoot(options: argparse.Namespace) -> None:
    path = CameraPath(
        options.camera, options.amount, pivot_m=options.subject_distance, speed=options.speed, start=options.start
    )
    from mvtrack.generate import SampleConfig
    from mvtrack.reshooting import Shot, reshoot_file

    shot = Shot(path, options.fov, sample=SampleConfig(options.steps, seed=options.seed))
    outputs = reshoot_file(options.video, path, options.model, options.out, shot, options.overwrite)
    sys.stdout.write(f"{outputs.side_by_side}\n{outputs.video}\n")


if __name__ == "__main__":
    sys.exit(main())
