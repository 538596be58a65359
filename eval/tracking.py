"""`python eval/tracking.py [--model FOLDER] [--out FOLDER]`: how well a tracking head follows points in both views."""

import json
import sys
import time
from dataclasses import replace
from pathlib import Path

from tqdm import tqdm

from mvtrack.config.checked import NonNegativeInt, config
from mvtrack.config.command_line import Command, option, run
from mvtrack.data.synthetic.test_scenes import render_case
from mvtrack.evaluation.manifest import load_tracking_cases
from mvtrack.evaluation.tables import model_record
from mvtrack.evaluation.tracking.pictures import tracking_sheet
from mvtrack.evaluation.tracking.report import paired, pooled_hidden, summarise, tables, verdict, write_report
from mvtrack.evaluation.tracking.scores import score_model
from mvtrack.evaluation.tracking.tracked_clips import attention_starts_of, follow_reference
from mvtrack.inference.pipeline import shipped_model
from mvtrack.inference.tracking.scene import require_head
from mvtrack.models.reshoot_model import load_model

_POINTS = 64


@config(kw_only=True)
class TrackingCommand(Command):
    """How well a tracking head follows points in both views of the rendered cases of the pinned tracking set: TAP-Vid's
    scores averaged over views, the error of points that one view hides and the other shows, epipolar error; beside the
    head with its views kept apart, with other views that belong to another clip, and points that never move. Then the
    target view alone, when points are given in the reference only and their starts are found by attention and refined,
    by attention alone, or by true depth; and how much worse each is than the model, clip by clip. Scenes are rendered
    at the model's size and number of frames. Writes tracking.json, tracking.csv and tracking.md."""

    model: Path = option(shipped_model(tracking=True), "one with a tracking head; default: the shipped one")
    out: Path = option(Path("outputs/tracking"), "folder for the tables")
    clips: int | None = option(None, "only the first so many of the pinned cases", metavar="N")
    pictures: NonNegativeInt = option(0, "also draw the first N cases: tracking.png", metavar="N")
    seed: int = option(0, "of queries and noise")


def main() -> int:
    return run(TrackingCommand, _run, None, "tracking")


def _run(options: TrackingCommand) -> None:
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
    end, table = verdict(summary, differences), tables(summary, differences, hidden)
    record = {
        "model": model_record(options.model),
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
    write_report(options.out, record, table, rows, [clip.key for clip in clips])
    if options.pictures:
        tracker, chosen = require_head(model), tracked[: options.pictures]
        followed = [follow_reference(tracker, one, attention_starts_of(one.clip)) for one in chosen]
        tracking_sheet(options.out / "tracking.png", followed)
    sys.stdout.write(f"{table}\n{json.dumps(end)}\n")


if __name__ == "__main__":
    sys.exit(main())
