"""`python eval/static_supervision.py`: does the supervised layer of a model for still scenes align faster?

Trains the static case (CAMEO) from scratch with and without the correspondence loss, several seeds; both arms of a seed
see the same samples and noise. Validation measures the layer's alignment error (without the projection head) and the
pictures along the way. Run it again to go on after an interruption, or with more seeds.
"""

import argparse
import json
import sys
import time
from dataclasses import replace
from importlib import metadata
from pathlib import Path

from mvtrack.config.errors import run_command
from mvtrack.config.run import RunConfig, load_config
from mvtrack.evaluation.ablation import curve_table, plot_curves, read_curves, train_in_a_process

_CURVES = {
    "validation/alignment_error": ("alignment error of the supervised layer, nats", ".3f"),
    "validation/pck": ("its PCK, all pairs of views", ".3f"),
    "validation/psnr_db": ("PSNR of the missing views, dB", ".2f"),
    "validation/true_minus_other_db": ("true over wrong cameras, dB", ".2f"),
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--config", default="configs/cameo_tiny.yaml", help="what is trained; its loss is the one tested"
    )
    parser.add_argument(
        "--out", type=Path, default=Path("outputs/static_supervision"), help="folder for runs and results"
    )
    parser.add_argument("--steps", type=int, default=600, help="steps of each run")
    parser.add_argument("--every", type=int, default=100, help="steps between measurements")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--scenes", type=int, default=6, help="unseen scenes that are measured")
    parser.add_argument("--debug", action="store_true", help="show a traceback when something fails")
    parser.add_argument("overrides", nargs="*", metavar="section.key=value", help="change single settings of all runs")
    options = parser.parse_intermixed_args()
    return run_command(lambda: _run(options), "static_supervision", options.debug)


def _run(options: argparse.Namespace) -> None:
    config = load_config(options.config, options.overrides)
    if config.model.views is None or config.loss.correspondence <= 0:
        raise ValueError(f"{options.config} must set model.views and loss.correspondence: else nothing is compared")
    if min(options.seeds, options.steps, options.every, options.scenes) < 1:
        raise ValueError("--seeds, --steps, --every and --scenes must be at least 1")
    began, runs = time.monotonic(), {"without": [], "with": []}
    for seed in range(options.seeds):
        for arm in runs:
            run = _arm(config, options, arm, seed)
            train_in_a_process(run)
            runs[arm].append(read_curves(Path(run.train.run_dir) / "metrics.jsonl", list(_CURVES)))
    gain = _mean_difference(runs["without"], runs["with"])
    record = {
        "mvtrack": metadata.version("mvtrack"),
        "options": {name: str(value) for name, value in vars(options).items()},
        "runs": runs,
        "figures": {"alignment_error_gain_nats": gain},
        "targets": {"alignment_error_gain_nats": "> 0 in every seed"},
        "met": min(gain) > 0,
        "seconds": round(time.monotonic() - began, 1),
    }
    (options.out / "static_supervision.json").write_text(json.dumps(record, indent=1))
    text = curve_table(runs, _CURVES)
    text += f"\n\nWeight {config.loss.correspondence}, mean ± standard deviation over seeds ({options.seeds}), "
    text += f"{options.scenes} unseen scenes."
    (options.out / "static_supervision.md").write_text(text + "\n")
    plot_curves(options.out / "static_supervision.png", runs, _CURVES)
    sys.stdout.write(text + "\n" + json.dumps({k: record[k] for k in ("figures", "targets", "met")}) + "\n")


def _arm(config: RunConfig, options: argparse.Namespace, arm: str, seed: int) -> RunConfig:
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
