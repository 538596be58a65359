"""`python eval/yardstick.py --model FOLDER --out FOLDER [--footage FOLDER]`: score a model on the pinned set."""

import json
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Literal

from tqdm import tqdm

from mvtrack.config.checked import Count, config
from mvtrack.config.command_line import Command, option, run
from mvtrack.data.synthetic.test_scenes import CaseSpec
from mvtrack.evaluation import full_resolution as full
from mvtrack.evaluation import pinned_benchmark as yardstick
from mvtrack.evaluation.manifest import VERSIONS, check_footage, load_manifest
from mvtrack.evaluation.pinned_report import steps_table, table, write_sheets
from mvtrack.evaluation.tables import model_record, write_results
from mvtrack.inference.full_resolution.plan import shipped_refiner
from mvtrack.inference.pipeline import shipped_model
from mvtrack.inference.sampler import SamplerOptions
from mvtrack.models.refiner.files import load_refiner
from mvtrack.models.reshoot_model import load_model


@config(kw_only=True)
class YardstickCommand(Command):
    """Score a model on the pinned set. `--steps 1 2 4 8` scores it at several numbers of sampling steps; table, sheets
    and targets are of the first."""

    model: Path = option(shipped_model(), "default: the shipped tiny model")
    footage: Path | None = option(None, "folder with the manifest's real videos; without it that half is skipped")
    out: Path = option(Path("outputs/yardstick"), "folder for scores.json, table.md and sheets")
    steps: tuple[Count, ...] = option((), "sampling steps; default: what the model is meant for")
    manifest: Literal[1, 2] = option(VERSIONS[-1], "version of the pinned set")
    resolution: Count | None = option(None, "score at this size as well, such as 256, by class of path")
    refiner: Path = option(shipped_refiner(), "for --resolution; default: the shipped one")
    every: Count = option(1, "for --resolution: take every n-th case")
    seed: int = option(0, "of the noise")


def main() -> int:
    return run(YardstickCommand, _score, None, "yardstick")


def _score(options: YardstickCommand) -> None:
    if options.resolution:
        _score_full(options)
        return
    began = time.monotonic()
    manifest, model = load_manifest(options.manifest), load_model(options.model)
    if options.footage:
        check_footage(manifest, options.footage)
    steps = options.steps or (SamplerOptions.of(model.config).steps,)
    scores = [yardstick.score(model, manifest, options.footage, SamplerOptions(n, seed=options.seed)) for n in steps]
    first, by_steps = scores[0], dict(zip(steps, scores, strict=True))
    record = {
        "manifest": manifest.version,
        "model": model_record(options.model),
        "sample": asdict(first.sample),
        "summary": first.summary,
        "targets": first.targets,
        "cases": {s.clip.key: s.numbers for s in first.rendered + first.footage},
        "by_steps": {n: {"summary": s.summary, "targets": s.targets} for n, s in by_steps.items()},
        "seconds": round(time.monotonic() - began, 1),
    }
    skipped = None if options.footage else "real footage skipped: no --footage folder given"
    text = table(first.summary, first.targets, skipped)
    if len(steps) > 1:
        text += "\n\n" + steps_table({n: s.summary for n, s in by_steps.items()})
    write_results(options.out, "scores", record, text, "table")
    write_sheets(options.out, first.rendered, first.footage)
    sys.stdout.write(text + "\n")
    last = {
        "figures": {name: row["value"] for name, row in first.targets.items()},
        "targets": {name: row["target"] for name, row in first.targets.items()},
        "steps": {n: {name: row["value"] for name, row in s.targets.items()} for n, s in by_steps.items()},
    }
    sys.stdout.write(json.dumps(last | {"met": all(row["met"] for row in first.targets.values())}) + "\n")


def _score_full(options: YardstickCommand) -> None:
    """The rendered scenes at full resolution; the figures at the model's own size are among them."""
    manifest, model, refiner = load_manifest(options.manifest), load_model(options.model), load_refiner(options.refiner)
    steps = options.steps[0] if options.steps else SamplerOptions.of(model.config).steps
    if options.footage:
        check_footage(manifest, options.footage)
    specs = [*manifest.rendered[:: options.every], *(manifest.footage[:: options.every] if options.footage else ())]
    scores = {}
    for i, spec in enumerate(tqdm(specs, desc="full resolution", unit="case")):
        sample = SamplerOptions(steps, seed=options.seed + i)
        if isinstance(spec, CaseSpec):
            case = full.full_case(spec, options.resolution, model, sample)
        else:
            case = full.footage_case(spec, options.resolution, options.footage, model, sample)
        if case is not None:
            scores[case.clip.key] = (case.kind, full.score(case, refiner))
    summary = full.summarise_full(scores)
    record = summary | {"steps": steps, "resolution": options.resolution, "manifest": manifest.version, "cases": scores}
    text = full.full_table(summary)
    write_results(options.out, f"scores_{options.resolution}", record, text, f"table_{options.resolution}")
    sys.stdout.write(text + "\n")
    figures = {name: row["value"] for name, row in summary["targets"].items()}
    sys.stdout.write(json.dumps({"figures": figures} | {n: summary[n] for n in ("met", "co_visible")}) + "\n")


if __name__ == "__main__":
    sys.exit(main())
