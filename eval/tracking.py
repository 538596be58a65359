"""`python eval/tracking.py [--model FOLDER] [--out FOLDER]`: how well a tracking head follows points in both views.

Scores the rendered cases of the pinned tracking set: TAP-Vid's scores averaged over views, the error of points that one
view hides and the other shows, epipolar error; beside the head with its views kept apart, with other views that belong
to another clip, and points that never move. Then the target view alone, when points are given in the reference only and
their starts are found by attention, or by true depth. Writes tracking.json, tracking.csv and tracking.md.
"""

import argparse
import csv
import json
import sys
import time
from importlib import metadata
from pathlib import Path

from tqdm import tqdm

from mvtrack.backbone.model import load_model
from mvtrack.command import run_command
from mvtrack.data.test_scenes import render_case
from mvtrack.evaluation.manifest import load_tracking_cases
from mvtrack.evaluation.statistics import mean_interval
from mvtrack.evaluation.tracking import follow_reference
from mvtrack.evaluation.tracking_pictures import tracking_sheet
from mvtrack.evaluation.tracking_scores import score_model
from mvtrack.kept_files import sha256
from mvtrack.reshooting import shipped_model
from mvtrack.tracking.following import attention_starts
from mvtrack.tracking.scene import require_head

_POINTS = 64
_TARGETS = {"delta_avg": 0.60, "average_jaccard": 0.40}
_STILL_BELOW, _OCCLUSION_GAIN = 0.25, 0.05


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
    specs = load_tracking_cases()[: options.clips]
    clips = [render_case(spec, num_points=_POINTS).clip for spec in tqdm(specs, desc="rendering", unit="clip")]
    with tqdm(total=len(clips), desc="tracking", unit="clip") as bar:
        tracked, rows = score_model(model, clips, options.seed, bar.update)
    summary = {who: _means(scores) for who, scores in rows.items()}
    record = {
        "mvtrack": metadata.version("mvtrack"),
        "model": {"folder": options.model, "sha256": sha256(Path(options.model) / "model.safetensors")},
        "clips": len(clips),
        "summary": summary,
        "cases": {clip.key: {who: _known(scores[i]) for who, scores in rows.items()} for i, clip in enumerate(clips)},
        "seconds": round(time.monotonic() - began, 1),
    }
    out = Path(options.out)
    out.mkdir(parents=True, exist_ok=True)
    (out / "tracking.json").write_text(json.dumps(record, indent=1, allow_nan=False))
    with (out / "tracking.csv").open("w", newline="") as file:
        names = dict.fromkeys(name for scores in rows.values() for name in scores[0])
        writer = csv.DictWriter(file, ["clip", "who", *names])
        writer.writeheader()
        for who, scores in rows.items():
            writer.writerows({"clip": clip.key, "who": who} | row for clip, row in zip(clips, scores, strict=True))
    if options.pictures:
        tracker, chosen = require_head(model), tracked[: options.pictures]
        tracking_sheet(out / "tracking.png", [follow_reference(tracker, one, attention_starts) for one in chosen])
    table = _table(summary)
    (out / "tracking.md").write_text(table + "\n")
    sys.stdout.write(f"{table}\n{json.dumps(_verdict(summary))}\n")


def _known(scores: dict[str, float]) -> dict[str, float | None]:
    """Scores for JSON, which has no NaN."""
    return {name: value if value == value else None for name, value in scores.items()}


def _means(scores: list[dict[str, float]]) -> dict[str, dict[str, float]]:
    """Means with intervals; clips in which there was nothing to score are left out of that score."""
    known = {name: [row[name] for row in scores if row[name] == row[name]] for name in scores[0]}
    return {name: mean_interval(values) for name, values in known.items() if values}


def _table(summary: dict) -> str:
    """One table of all views, and one of the target view alone."""
    kinds = [{who: s for who, s in summary.items() if who.startswith("target view") == kind} for kind in (False, True)]
    return "\n\n".join(_part(kind) for kind in kinds)


def _part(summary: dict) -> str:
    names = dict.fromkeys(name for scores in summary.values() for name in scores)
    lines = ["| | " + " | ".join(names) + " |", "|---|" + "---|" * len(names)]
    for who, scores in summary.items():
        cells = [f"{s['mean']:.3f} ({s['low']:.3f} to {s['high']:.3f})" if (s := scores.get(n)) else "-" for n in names]
        lines.append(f"| {who} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _verdict(summary: dict) -> dict:
    """The closing line: what the project promises, what was reached, and whether all is met."""
    model, still = summary["model"], summary["points stay where they were"]
    figures = {name: model[name]["mean"] for name in _TARGETS}
    figures["still delta_avg"] = still["delta_avg"]["mean"]
    figures["occlusion gain"] = model["occlusion_accuracy"]["mean"] - model["majority_occlusion_accuracy"]["mean"]
    bounds = _TARGETS | {"occlusion gain": _OCCLUSION_GAIN}
    met = all(figures[name] >= bound for name, bound in bounds.items())
    targets = {name: f">= {bound}" for name, bound in bounds.items()} | {"still delta_avg": f"<= {_STILL_BELOW}"}
    return {"figures": figures, "targets": targets, "met": met and figures["still delta_avg"] <= _STILL_BELOW}


if __name__ == "__main__":
    sys.exit(main())
