"""`mvtrack export4d RESULT --format FORMAT`: a re-shot video for 3D programs."""

import sys
from pathlib import Path
from typing import Literal

from mvtrack.config.checked import Count, config
from mvtrack.config.command_line import Command, option, positional, run


@config(kw_only=True)
class Export4DCommand(Command):
    """Write what source and result of a re-shot video show, in one world: coloured points or depth meshes of every
    moment, both cameras, and tracks in 3D where the result has some."""

    result: Path = positional("a folder that mvtrack reshoot wrote")
    format: Literal["ply", "glb", "usd", "colmap", "nerfstudio", "html"] = option(
        "html",
        "ply: a folder of point clouds; glb: animated depth meshes; usd: points and cameras over time; colmap, "
        "nerfstudio: a folder with images, masks, poses and points; html: one page that plays it offline",
    )
    out: Path | None = option(None, "file or folder to write; default: beside RESULT, by its name")
    source: Path | None = option(None, "where the video that was re-shot lies now, if it was moved")
    points: Count | None = option(
        None,
        "at most so many a view and moment; default: all, in a file of all moments 2 (glb), 3 (html), 6 (usd) million",
    )
    every: Count = option(1, "take each so many-th frame")
    overwrite: bool = option(False, "replace what is there")


def main(arguments: list[str] | None = None) -> int:
    """Parse and export."""
    return run(Export4DCommand, _export, arguments, "mvtrack export4d")


def _export(options: Export4DCommand) -> None:
    from mvtrack.inference.scene4d.export import export_4d

    done = export_4d(
        options.result, options.format, options.out, options.source, options.points, options.every, options.overwrite
    )
    for note in done.notes:
        sys.stderr.write(f"mvtrack export4d: {note}\n")
    sys.stdout.write(f"{done.path}\n")


if __name__ == "__main__":
    sys.exit(main())
