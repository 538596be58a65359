"""`python eval/yardstick.py --model FOLDER --out FOLDER [--footage FOLDER]`: score a model on the pinned set.

`--steps 1 2 4 8` scores it at several numbers of sampling steps; table, sheets and targets are of the first.
"""

import argparse
import json
import sys
import time
from dataclasses import asdict
from importlib import metadata
from pathlib import Path

from tqdm import tqdm

from mvtrack.config.errors import run_command
from mvtrack.evaluation import full_resolution as full
from mvtrack.evaluation import pinned_benchmark as yardstick
from mvtrack.evaluation.manifest import VERSIONS, check_footage, load_manifest
from mvtrack.evaluation.pinned_report import steps_table, table, write_sheets
from mvtrack.files.cache import sha256
from mvtrack.inference.full_resolution.plan import shipped_refiner
from mvtrack.inference.pipeline import shipped_model
from mvtrack.inference.sampler import SamplerOptions
from mvtrack.models.refiner.files import load_refiner
from mvtrack.models.reshoot_model import load_model


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default=str(shipped_model()), help="default: the shipped tiny model")
    parser.add_argument("--footage", help="folder with the manifest's real videos; without it that half is skipped")
    parser.add_argument("--out", default="outputs/yardstick", help="folder for scores.json, table.md and sheets")
    parser.add_argument("--steps", type=int, nargs="+", help="sampling steps; default: what the model is meant for")
    parser.add_argument(
        "--manifest", type=int, choices=VERSIONS, default=VERSIONS[-1], help="version of the pinned set"
    )
    parser.add_argument("--resolution", type=int, help="score at this size as well, such as 256, by class of path")
    parser.add_argument("--refiner", default=str(shipped_refiner()), help="for --resolution; default: the shipped one")
    parser.add_argument("--every", type=int, default=1, help="for --resolution: take every n-th scene")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--debug", action="store_true", help="show a traceback when something fails")
    options = parser.parse_args()
    return run_command(lambda: _score(options), "yardstick", options.debug)


def _score(options: argparse.Namespace) -> None:
    if options.resolution:
        _score_full(options)
        return
    began = time.monotonic()
    manifest, model = load_manifest(options.manifest), load_model(options.model)
    footage = Path(options.footage) if options.footage else None
    if footage:
        check_footage(manifest, footage)
    steps = options.steps or [SamplerOptions.of(model.config).steps]
    scores = [yardstick.score(model, manifest, footage, SamplerOptions(n, seed=options.seed)) for n in steps]
    first, by_steps = scores[0], dict(zip(steps, scores, strict=True))
    record = {
        "manifest": manifest.version,
        "mvtrack": metadata.version("mvtrack"),
        "model": {"folder": options.model, "sha256": sha256(Path(options.model) / "model.safetensors")},
        "sample": asdict(first.sample),
        "summary": first.summary,
        "targets": first.targets,
        "cases": {s.clip.key: s.numbers for s in first.rendered + first.footage},
        "by_steps": {n: {"summary": s.summary, "targets": s.targets} for n, s in by_steps.items()},
        "seconds": round(time.monotonic() - began, 1),
    }
    out = Path(options.out)
    out.mkdir(parents=True, exist_ok=True)
    (out / "scores.json").write_text(json.dumps(record, indent=1))
    skipped = None if footage else "real footage skipped: no --footage folder given"
    text = table(first.summary, first.targets, skipped)
    if len(steps) > 1:
        text += "\n\n" + steps_table({n: s.summary for n, s in by_steps.items()})
    (out / "table.md").write_text(text)
    write_sheets(out, first.rendered, first.footage)
    sys.stdout.write(text + "\n")
    last = {
        "figures": {name: row["value"] for name, row in first.targets.items()},
        "targets": {name: row["target"] for name, row in first.targets.items()},
        "steps": {n: {name: row["value"] for name, row in s.targets.items()} for n, s in by_steps.items()},
    }
    sys.stdout.write(json.dumps(last | {"met": all(row["met"] for row in first.targets.values())}) + "\n")


def _score_full(options: argparse.Namespace) -> None:
    """The rendered scenes at full resolution; the figures at the model's own size are among them."""
    manifest, model, refiner = load_manifest(options.manifest), load_model(options.model), load_refiner(options.refiner)
    steps = options.steps[0] if options.steps else SamplerOptions.of(model.config).steps
    scores = {}
    for i, spec in enumerate(tqdm(manifest.rendered[:: options.every], desc="full resolution", unit="scene")):
        case = full.full_case(spec, options.resolution, model, SamplerOptions(steps, seed=options.seed + i))
        if case is not None:
            scores[case.clip.key] = (case.kind, full.score(case, refiner))
    summary = full.summarise_full(scores)
    out = Path(options.out)
    out.mkdir(parents=True, exist_ok=True)
    record = summary | {"steps": steps, "resolution": options.resolution, "manifest": manifest.version, "cases": scores}
    (out / f"scores_{options.resolution}.json").write_text(json.dumps(record, indent=1))
    text = full.full_table(summary)
    (out / f"table_{options.resolution}.md").write_text(text)
    sys.stdout.write(text + "\n")
    figures = {name: row["value"] for name, row in summary["targets"].items()}
    sys.stdout.write(json.dumps({"figures": figures} | {n: summary[n] for n in ("met", "co_visible")}) + "\n")


if __name__ == "__main__":
    sys.exit(main())
