"""`mvtrack preview video.mp4 --camera ...`: frusta and a warped preview through the cameras the render will use."""

import argparse
import contextlib
import sys
import threading
from pathlib import Path

from mvtrack.config.errors import run_command
from mvtrack.inference.shot_options import add_shot_arguments, read_shot


def main(arguments: list[str] | None = None) -> int:
    """Parse and preview."""
    parser = argparse.ArgumentParser(prog="mvtrack preview", description="See a camera path before rendering it.")
    parser.add_argument("video", type=Path, help="video file, GIF, image, or folder of images")
    add_shot_arguments(parser)
    parser.add_argument(
        "--depth", metavar="FILE|auto|ID|flat",
        help=".npy or .npz with z-depth; a depth network; flat: all at the subject's distance. Default: learned from "
        "single frames",
    )  # fmt: skip
    parser.add_argument("--model", help="model that will render; default: the tiny model that ships")
    parser.add_argument("--out", type=Path, help="folder for the results; default outputs/preview_<video>_<path>")
    parser.add_argument(
        "--interactive", action="store_true", help="drag the path's keyframes on a local web page, and save the path"
    )
    parser.add_argument("--port", type=int, default=8080, help="of that page")
    parser.add_argument("--overwrite", action="store_true", help="replace an existing output folder")
    parser.add_argument("--debug", action="store_true", help="show a traceback when something fails")
    options = parser.parse_args(arguments)
    return run_command(lambda: _preview(options), parser.prog, options.debug)


def _preview(options: argparse.Namespace) -> None:
    from mvtrack.inference.pipeline import shipped_model
    from mvtrack.inference.preview import preview_file
    from mvtrack.inference.sampler import SamplerOptions
    from mvtrack.models.reshoot_model import read_config

    shot = read_shot(options, options.video, SamplerOptions())
    for note in shot.notes:
        sys.stderr.write(f"mvtrack preview: {note}\n")
    config = read_config(options.model or shipped_model())
    out = options.out or Path("outputs") / f"preview_{options.video.stem}_{shot.path.label}"
    if options.interactive:
        _show_page(options, shot, config, out)
        return
    preview = preview_file(options.video, shot, config, out, options.depth, options.overwrite)
    for warning in preview.warnings:
        sys.stderr.write(f"mvtrack preview: {warning}\n")
    sys.stdout.write(f"{preview.video}\n{preview.frusta}\n")


def _show_page(options: argparse.Namespace, shot, config, out: Path) -> None:
    from mvtrack.inference.path_editor import PathPage

    page = PathPage(options.video, shot, config, out / "path.json", options.depth, options.port)
    sys.stdout.write(f"{page.url} (Ctrl-C ends)\n")
    sys.stdout.flush()
    with contextlib.suppress(KeyboardInterrupt):
        threading.Event().wait()


if __name__ == "__main__":
    sys.exit(main())
