"""`python eval/yardstick.py --model FOLDER --out FOLDER [--footage FOLDER]`: score a model on the pinned set."""

import argparse
import json
import sys
import time
from dataclasses import asdict
from importlib import metadata
from pathlib import Path

from mvtrack.config.errors import run_command
from mvtrack.evaluation import pinned_benchmark as yardstick
from mvtrack.evaluation.manifest import check_footage, load_manifest
from mvtrack.evaluation.pinned_report import table, write_sheets
from mvtrack.files.cache import sha256
from mvtrack.inference.pipeline import shipped_model
from mvtrack.inference.sampler import SamplerOptions
from mvtrack.models.reshoot_model import load_model


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default=str(shipped_model()), help="default: the shipped tiny model")
    parser.add_argument("--footage", help="folder with the manifest's real videos; without it that half is skipped")
    parser.add_argument("--out", default="outputs/yardstick", help="folder for scores.json, table.md and sheets")
    parser.add_argument("--steps", type=int, default=8, help="sampling steps, at least 8")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--debug", action="store_true", help="show a traceback when something fails")
    options = parser.parse_args()
    return run_command(lambda: _score(options), "yardstick", options.debug)


def _score(options: argparse.Namespace) -> None:
    if options.steps < 8:
        raise ValueError(f"the yardstick is defined for at least 8 sampling steps, got {options.steps}")
    began = time.monotonic()
    manifest, model, sample = (
        load_manifest(),
        load_model(options.model),
        SamplerOptions(options.steps, seed=options.seed),
    )
    footage = None
    if options.footage:
        check_footage(manifest, Path(options.footage))
        footage = yardstick.score_footage(model, manifest, Path(options.footage), sample)
    rendered = yardstick.score_rendered(model, manifest, sample)
    summary = {"rendered": yardstick.summarise(rendered)}
    turns = None
    if footage:
        turns = yardstick.summarise_turns(footage, [spec.component for spec in manifest.footage])
        summary |= {"footage": yardstick.summarise(footage), "turns": turns}
    targets = yardstick.check_targets(summary["rendered"], summary.get("footage"), turns)
    record = {
        "manifest": manifest.version,
        "mvtrack": metadata.version("mvtrack"),
        "model": {"folder": options.model, "sha256": sha256(Path(options.model) / "model.safetensors")},
        "sample": asdict(sample),
        "summary": summary,
        "targets": targets,
        "cases": {s.clip.key: s.numbers for s in rendered + (footage or [])},
        "seconds": round(time.monotonic() - began, 1),
    }
    out = Path(options.out)
    out.mkdir(parents=True, exist_ok=True)
    (out / "scores.json").write_text(json.dumps(record, indent=1))
    text = table(summary, targets, skipped=None if footage else "real footage skipped: no --footage folder given")
    (out / "table.md").write_text(text)
    write_sheets(out, rendered, footage or [])
    figures = {name: row["value"] for name, row in targets.items()}
    sys.stdout.write(text + "\n")
    last = {"figures": figures, "targets": {n: r["target"] for n, r in targets.items()}}
    sys.stdout.write(json.dumps(last | {"met": all(row["met"] for row in targets.values())}) + "\n")


if __name__ == "__main__":
    sys.exit(main())
