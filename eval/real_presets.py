"""`python eval/real_presets.py VIDEO [VIDEO ...] --out FOLDER`: all ten presets on whole real videos."""

import sys
from pathlib import Path

from mvtrack.config.checked import config
from mvtrack.config.command_line import Command, option, positional, run
from mvtrack.data.visualize.contact_sheet import contact_sheet
from mvtrack.geometry.presets import PRESETS
from mvtrack.inference.pipeline import reshoot_file, shipped_model
from mvtrack.models.reshoot_model import load_model
from mvtrack.video.reader import open_video
from mvtrack.video.resize import plan_fit
from mvtrack.video.writer import from_bytes


@config(kw_only=True)
class RealPresetsCommand(Command):
    """All ten presets on whole real videos, to look at: each re-shot video, and one contact sheet per input (reference
    and result at the first, middle and last frame)."""

    videos: tuple[Path, ...] = positional("video files", metavar="VIDEO")
    model: Path = option(shipped_model(), "default: the tiny model that ships", metavar="FOLDER")
    out: Path = option(Path("outputs/real_presets"), "folder for videos and sheets", metavar="FOLDER")


def main() -> int:
    return run(RealPresetsCommand, _run, None, "real_presets")


def _run(options: RealPresetsCommand) -> None:
    model = load_model(options.model)
    for video in options.videos:
        footage = open_video(video)
        fit = plan_fit(footage.size, model.config)
        reference = fit.apply(footage.read(0, len(footage), fit.scaled))
        rows = {}
        for preset in PRESETS:
            outputs = reshoot_file(video, preset, model, options.out / f"{video.stem}_{preset}", overwrite=True)
            made = from_bytes(open_video(outputs.video).read(0, len(footage)))
            rows[preset] = {"reference": reference, "re-shot": made}
        sheet = options.out / f"presets_{video.stem}.jpg"
        contact_sheet(sheet, rows, frames=[0, len(reference) // 2, -1])
        sys.stdout.write(f"{sheet}\n")


if __name__ == "__main__":
    sys.exit(main())
