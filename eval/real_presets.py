"""`python eval/real_presets.py VIDEO [VIDEO ...] --out FOLDER`: all ten presets on whole real videos, to look at.

Writes each re-shot video, and one contact sheet per input (reference and result at the first, middle and last frame).
"""

import argparse
import sys
from pathlib import Path

from mvtrack.config.errors import run_command
from mvtrack.data.visualize.contact_sheet import contact_sheet
from mvtrack.geometry.presets import PRESETS
from mvtrack.inference.pipeline import reshoot_file, shipped_model
from mvtrack.models.reshoot_model import load_model
from mvtrack.video.reader import open_video
from mvtrack.video.resize import plan_fit
from mvtrack.video.writer import from_bytes


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("videos", nargs="+", type=Path)
    parser.add_argument("--model", default=str(shipped_model()))
    parser.add_argument("--out", type=Path, default=Path("outputs/real_presets"))
    parser.add_argument("--debug", action="store_true", help="show a traceback when something fails")
    options = parser.parse_args()
    return run_command(lambda: _run(options), "real_presets", options.debug)


def _run(options: argparse.Namespace) -> None:
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
