"""`python eval/tracking.py [--model FOLDER] [--out FOLDER]`: how well a tracking head follows points in both views.

Scores the rendered cases of the pinned tracking set: TAP-Vid's scores averaged over views, the error of points that one
view hides and the other shows, epipolar error; beside the head with its views kept apart, with other views that belong
to another clip, and points that never move. Then the target view alone, when points are given in the reference only and
their starts are found by attention and refined, by attention alone, or by true depth; and how much worse each is than
the model, clip by clip. Scenes are rendered at the model's size and number of frames. Writes tracking.json,
tracking.csv and tracking.md.
"""

import argparse
import json
import sys
import time
from dataclasses import replace
from importlib import metadata
from pathlib import Path

from tqdm import tqdm

from mvtrack.config.errors import run_command
from mvtrack.data.synthetic.test_scenes import render_case
from mvtrack.evaluation.manifest import load_tracking_cases
from mvtrack.evaluation.tracking.pictures import tracking_sheet
from mvtrack.evaluation.tracking.report import paired, pooled_hidden, summarise, tables, verdict, write_report
from mvtrack.evaluation.tracking.scores import score_model
from mvtrack.evaluation.tracking.tracked_clips import attention_starts_of, follow_reference
from mvtrack.files.cache import sha256
from mvtrack.inference.pipeline import shipped_model
from mvtrack.inference.tracking.scene import require_head
from mvtrack.models.reshoot_model import load_model

_POINTS = 64


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--model", default=str(shipped_model(tracking=True)), help="one with a tracking head; default: the shipped one"
    )
    parser.add_argument("--out", default="outputs/tracking", help="folder for the tables")
    parser.add_argument("--clips", type=int, help="only the first so many of the pinned cases")
    parser.add_argument(
        "--pictures", type=int, default=0, metavar="N", help="also draw the first N cases: tracking.png"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--debug", action="store_true", help="show a traceback when something fails")
    options = parser.parse_args()
    return run_command(lambda: _run(options), "tracking", options.debug)


def _run(options: argparse.Namespace) -> None:
    if options.clips is not None and options.clips < 2:
        raise ValueError(f"--clips must be at least 2 (views are also put beside another clip's), got {options.clips}")
    began, model = time.monotonic(), load_model(options.model)
    pinned = load_tracking_cases()[: options.clips]
    specs = [replace(spec, size=model.config.sizes[0], num_frames=model.config.num_frames) for spec in pinned]
    if specs != pinned:
        sys.stderr.write(
            f"tracking: the pinned scenes are rendered at the model's {specs[0].num_frames} frames of "
            f"{specs[0].size}: scores compare with those of models of that size only\n"
        )
    clips = [render_case(spec, num_points=_POINTS).clip for spec in tqdm(specs, desc="rendering", unit="clip")]
    with tqdm(total=len(clips), desc="tracking", unit="clip") as bar:
        tracked, rows = score_model(model, clips, options.seed, bar.update)
    summary, differences, hidden = summarise(rows), paired(rows), pooled_hidden(rows)
    out, end = Path(options.out), verdict(summary, differences)
    record = {
        "mvtrack": metadata.version("mvtrack"),
        "model": {"folder": options.model, "sha256": sha256(Path(options.model) / "model.safetensors")},
        "clips": len(clips),
        "size": specs[0].size,
        "frames": specs[0].num_frames,
        "pinned": specs == pinned,
        "verdict": end,
        "summary": summary,
        "paired": differences,
        "hidden_here_pooled": hidden,
        "seconds": round(time.monotonic() - began, 1),
    }
    write_report(out, record, rows, [clip.key for clip in clips])
    if options.pictures:
        tracker, chosen = require_head(model), tracked[: options.pictures]
        tracking_sheet(
            out / "tracking.png", [follow_reference(tracker, one, attention_starts_of(one.clip)) for one in chosen]
        )
    table = tables(summary, differences, hidden)
    (out / "tracking.md").write_text(table + "\n")
    sys.stdout.write(f"{table}\n{json.dumps(end)}\n")


if __name__ == "__main__":
    sys.exit(main())
