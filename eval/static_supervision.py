"""`python eval/static_supervision.py`: does the correspondence loss align a model for still scenes faster?"""

import json
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path

from mvtrack.config.checked import Count, config
from mvtrack.config.command_line import Command, option, overrides, run
from mvtrack.config.run import RunConfig, load_config
from mvtrack.evaluation.ablation import curve_table, plot_curves, read_curves, train_in_a_process
from mvtrack.evaluation.tables import write_results

_CURVES = {
    "validation/alignment_error": ("alignment error of the supervised layer, nats", ".3f"),
    "validation/pck": ("its PCK, all pairs of views", ".3f"),
    "validation/psnr_db": ("PSNR of the missing views, dB", ".2f"),
    "validation/true_minus_other_db": ("true over wrong cameras, dB", ".2f"),
}


@config(kw_only=True)
class StaticSupervisionCommand(Command):
    """Does the supervised layer of a model for still scenes align faster? Trains the static case (CAMEO) from scratch
    with and without the correspondence loss, several seeds; both arms of a seed see the same samples and noise.
    Validation measures the layer's alignment error (without the projection head) and the pictures along the way. Run it
    again to go on after an interruption, or with more seeds."""

    config: Path = option(Path("configs/cameo_tiny.yaml"), "what is trained; its loss is the one tested")
    out: Path = option(Path("outputs/static_supervision"), "folder for runs and results")
    steps: Count = option(600, "steps of each run")
    every: Count = option(100, "steps between measurements")
    seeds: Count = option(3, "runs of each arm")
    scenes: Count = option(6, "unseen scenes that are measured")
    changes: tuple[str, ...] = overrides("change single settings of all runs")


def main() -> int:
    return run(StaticSupervisionCommand, _run, None, "static_supervision")


def _run(options: StaticSupervisionCommand) -> None:
    config = load_config(options.config, options.changes)
    if config.model.views is None or config.loss.correspondence <= 0:
        raise ValueError(f"{options.config} must set model.views and loss.correspondence: else nothing is compared")
    began, runs = time.monotonic(), {"without": [], "with": []}
    for seed in range(options.seeds):
        for arm in runs:
            run = _arm(config, options, arm, seed)
            train_in_a_process(run)
            runs[arm].append(read_curves(Path(run.train.run_dir) / "metrics.jsonl", list(_CURVES)))
    gain = _mean_difference(runs["without"], runs["with"])
    record = {
        "options": {name: str(value) for name, value in asdict(options).items()},
        "runs": runs,
        "figures": {"alignment_error_gain_nats": gain},
        "targets": {"alignment_error_gain_nats": "> 0 in every seed"},
        "met": min(gain) > 0,
        "seconds": round(time.monotonic() - began, 1),
    }
    text = curve_table(runs, _CURVES)
    text += f"\n\nWeight {config.loss.correspondence}, mean ± standard deviation over seeds ({options.seeds}), "
    text += f"{options.scenes} unseen scenes."
    write_results(options.out, "static_supervision", record, text)
    plot_curves(options.out / "static_supervision.png", runs, _CURVES)
    sys.stdout.write(text + "\n" + json.dumps({k: record[k] for k in ("figures", "targets", "met")}) + "\n")


def _arm(config: RunConfig, options: StaticSupervisionCommand, arm: str, seed: int) -> RunConfig:
    changes = {
        "steps": options.steps,
        "seed": config.train.seed + seed,
        "run_dir": str(options.out / f"{arm}_{seed}"),
        "validate_every": options.every,
        "validate_clips": options.scenes,
        "keep_last": 1,
    }
    config = replace(config, train=replace(config.train, **changes))
    if arm == "with":
        return config
    return replace(config, model=replace(config.model, logit_heads=()), loss=replace(config.loss, correspondence=0.0))


def _mean_difference(without: list[dict], with_it: list[dict]) -> list[float]:
    """By how much the alignment error is lower with the loss, averaged over the measurements of each seed."""
    gains = []
    for before, after in zip(without, with_it, strict=True):
        pairs = zip(before["validation/alignment_error"], after["validation/alignment_error"], strict=True)
        gains.append(sum(a - b for a, b in pairs) / len(before["step"]))
    return gains


if __name__ == "__main__":
    sys.exit(main())
