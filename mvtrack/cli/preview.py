"""`mvtrack preview video.mp4 --camera ...`: frusta and a warped preview through the cameras the render will use."""

import contextlib
import sys
import threading
from dataclasses import replace
from pathlib import Path
from typing import Annotated

from mvtrack.config.checked import Range, config
from mvtrack.config.command_line import Command, option, positional, run, section
from mvtrack.inference.shot_options import ShotOptions, read_shot


@config(kw_only=True)
class PreviewCommand(Command):
    """See a camera path, or all presets (`--camera all`), before rendering it."""

    video: Path = positional("video file, GIF, image, or folder of images")
    shot: ShotOptions = section(ShotOptions, "the shot", required=("camera",))
    depth: str | None = option(
        None,
        ".npy or .npz with z-depth; a depth network; flat: all at the subject's distance. Default: learned from single "
        "frames",
        metavar="FILE|auto|ID|flat",
    )
    model: str | None = option(None, "model that will render; default: the tiny model that ships")
    out: Path | None = option(None, "folder for the results; default: outputs/preview_<video>_<path>")
    interactive: bool = option(False, "drag the path's keyframes on a local web page, and save the path")
    port: Annotated[int, Range(0, 65535)] = option(8080, "of that page")
    overwrite: bool = option(False, "replace an existing output folder")


def main(arguments: list[str] | None = None) -> int:
    """Parse and preview."""
    return run(PreviewCommand, _preview, arguments, "mvtrack preview")


def _preview(options: PreviewCommand) -> None:
    from mvtrack.inference.pipeline import shipped_model
    from mvtrack.inference.preview import preset_sheet, preview_file
    from mvtrack.models.reshoot_model import read_config

    shows_all = options.shot.camera == "all"
    shot = read_shot(replace(options.shot, camera="static") if shows_all else options.shot, options.video)
    for note in shot.notes:
        sys.stderr.write(f"mvtrack preview: {note}\n")
    model = read_config(options.model or shipped_model())
    out = options.out or Path("outputs") / f"preview_{options.video.stem}_{shot.path.label}"
    if options.interactive:
        _show_page(options, shot, model, out)
        return
    if shows_all:
        out = options.out or Path("outputs") / f"preview_{options.video.stem}_all"
        sheet, notes = preset_sheet(options.video, shot, model, out, options.depth, options.overwrite)
        sys.stderr.writelines(f"mvtrack preview: {note}\n" for note in notes)
        sys.stdout.write(f"{sheet}\n")
        return
    preview = preview_file(options.video, shot, model, out, options.depth, options.overwrite)
    for warning in preview.warnings:
        sys.stderr.write(f"mvtrack preview: {warning}\n")
    sys.stdout.write(f"{preview.video}\n{preview.frusta}\n")


def _show_page(options: PreviewCommand, shot, model, out: Path) -> None:
    from mvtrack.inference.path_editor import PathPage

    page = PathPage(options.video, shot, model, out / "path.json", options.depth, options.port)
    sys.stdout.write(f"{page.url} (Ctrl-C ends)\n")
    sys.stdout.flush()
    with contextlib.suppress(KeyboardInterrupt):
        threading.Event().wait()


if __name__ == "__main__":
    sys.exit(main())
