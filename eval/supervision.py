"""`python eval/supervision.py`: what the correspondence loss changes, at equal steps, several seeds.

Trains a base from scratch *without* the loss, fine-tunes it with and without (each seed sees the same samples and
noise in both arms), and scores both on the pinned set: cross-view PCK of the supervised layer, PSNR, true against
mirrored path, warp consistency. Run it again to go on after an interruption, or with more seeds.
"""

import argparse
import json
import sys
import time
from dataclasses import asdict, replace
from importlib import metadata
from pathlib import Path

from mvtrack.config.errors import run_command
from mvtrack.config.run import RunConfig, load_config
from mvtrack.config.training import TrainConfig
from mvtrack.evaluation.ablation import compare, plot_pairs, remembered, table, train_in_a_process
from mvtrack.evaluation.manifest import VERSIONS, load_manifest
from mvtrack.evaluation.supervision import TITLES, score
from mvtrack.files.cache import sha256
from mvtrack.inference.sampler import SamplerOptions
from mvtrack.models.reshoot_model import load_model

_PROMISED_PCK = 0.15
_FINE_TUNING = {"lr": 0.5, "muon_lr": 0.5}  # times the config's learning rates, which are for a start from scratch


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", default="configs/tiny.yaml", help="what is trained; its loss is the one tested")
    parser.add_argument("--out", type=Path, default=Path("outputs/supervision"), help="folder for runs and results")
    parser.add_argument("--base", help="start from this model folder instead of training one without the loss")
    parser.add_argument("--base-steps", type=int, default=1200, help="steps of the base")
    parser.add_argument("--steps", type=int, default=300, help="steps of each fine-tuning")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--cases", type=int, default=16, help="rendered cases of the pinned set that are scored")
    parser.add_argument("--scenes", type=int, default=1600, help="at most so many scenes of each bank are used")
    parser.add_argument("--debug", action="store_true", help="show a traceback when something fails")
    parser.add_argument("overrides", nargs="*", metavar="section.key=value", help="change single settings of all runs")
    options = parser.parse_intermixed_args()
    return run_command(lambda: _run(options), "supervision", options.debug)


def _run(options: argparse.Namespace) -> None:
    config = _checked(options)
    began, layer = time.monotonic(), (config.loss.correspondence_layers or (config.model.tap_layer,))[0]
    base = options.base or str(train_in_a_process(_base(config, options)))
    arms = {"without": 0.0, "with": config.loss.correspondence}
    scores = {"base": _scored(Path(base), options.out / "base_scores.json", layer, options)}
    for seed in range(options.seeds):
        for arm, weight in arms.items():
            run = _fine_tuned(config, options, base, seed, arm, weight)
            folder = train_in_a_process(run)
            scores[f"{arm}_{seed}"] = _scored(folder, options.out / f"{arm}_{seed}_scores.json", layer, options)
    rows = {arm: [scores[f"{arm}_{seed}"] for seed in range(options.seeds)] for arm in arms}
    comparison = compare(rows["without"], rows["with"])
    gained = comparison["pck"]["difference"]["mean"]
    record = {
        "mvtrack": metadata.version("mvtrack"),
        "manifest": VERSIONS[-1],
        "options": {name: str(value) for name, value in vars(options).items()},
        "layer": layer,
        "weight": config.loss.correspondence,
        "base": scores["base"],
        "comparison": comparison,
        "figures": {"pck_gain": gained},
        "targets": {"pck_gain": f">= {_PROMISED_PCK}"},
        "met": gained >= _PROMISED_PCK,
        "seconds": round(time.monotonic() - began, 1),
    }
    (options.out / "supervision.json").write_text(json.dumps(record, indent=1))
    text = table(comparison, TITLES, scores["base"])
    text += f"\n\nLayer {layer}, weight {config.loss.correspondence}, {options.steps} steps, mean ± standard deviation "
    text += f"over seeds ({options.seeds}), {options.cases} rendered cases of the pinned set."
    (options.out / "supervision.md").write_text(text + "\n")
    plot_pairs(options.out / "supervision.png", comparison, TITLES, scores["base"])
    sys.stdout.write(text + "\n" + json.dumps({k: record[k] for k in ("figures", "targets", "met")}) + "\n")


def _checked(options: argparse.Namespace) -> RunConfig:
    config = load_config(options.config, options.overrides)
    if config.loss.correspondence <= 0:
        raise ValueError(f"{options.config} has loss.correspondence 0: there is nothing to compare with")
    if min(options.seeds, options.steps, options.base_steps, options.cases, options.scenes) < 1:
        raise ValueError("--seeds, --steps, --base-steps, --cases and --scenes must be at least 1")
    banks = tuple(replace(bank, num_scenes=min(bank.num_scenes, options.scenes)) for bank in config.data.banks)
    return replace(config, data=replace(config.data, banks=banks))


def _base(config: RunConfig, options: argparse.Namespace) -> RunConfig:
    loss = replace(config.loss, correspondence=0.0)
    train = _short(config.train, options.base_steps, options.out / "base")
    return replace(config, loss=loss, train=train)


def _fine_tuned(
    config: RunConfig, options: argparse.Namespace, base: str, seed: int, arm: str, weight: float
) -> RunConfig:
    rates = {name: getattr(config.optim, name) * factor for name, factor in _FINE_TUNING.items()}
    train = _short(config.train, options.steps, options.out / f"{arm}_{seed}")
    return replace(
        config,
        loss=replace(config.loss, correspondence=weight),
        optim=replace(config.optim, warmup_steps=min(20, config.optim.warmup_steps), **rates),
        train=replace(train, seed=1000 + seed, init_from=base),
    )


def _short(train: TrainConfig, steps: int, run_dir: Path) -> TrainConfig:
    """The same training with other steps, that hardly stops to save or validate."""
    times = {"save_every": min(train.save_every, 400), "validate_every": steps, "validate_clips": 1, "keep_last": 1}
    return replace(train, steps=steps, run_dir=str(run_dir), **times)


def _scored(folder: Path, memo: Path, layer: int, options: argparse.Namespace) -> dict[str, float]:
    sample = SamplerOptions(8)
    weights = folder / "model.safetensors"
    key = {"model": sha256(weights), "cases": options.cases, "layer": layer, "sample": asdict(sample)}
    specs = list(load_manifest().rendered[: options.cases])
    return remembered(memo, key, lambda: score(load_model(folder), specs, layer, sample))


if __name__ == "__main__":
    sys.exit(main())
