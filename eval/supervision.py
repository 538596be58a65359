"""`python eval/supervision.py`: what the correspondence loss changes, at equal steps, several seeds."""

import json
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path

from mvtrack.config.checked import Count, config
from mvtrack.config.command_line import Command, option, overrides, run
from mvtrack.config.run import RunConfig, load_config
from mvtrack.config.training import TrainConfig
from mvtrack.evaluation.ablation import compare, plot_pairs, remembered, table, train_in_a_process
from mvtrack.evaluation.manifest import VERSIONS, load_manifest
from mvtrack.evaluation.supervision import TITLES, score
from mvtrack.evaluation.tables import write_results
from mvtrack.files.cache import sha256
from mvtrack.inference.sampler import SamplerOptions
from mvtrack.models.reshoot_model import load_model

_PROMISED_PCK = 0.15
_FINE_TUNING = {"lr": 0.5, "muon_lr": 0.5}  # times the config's learning rates, which are for a start from scratch


@config(kw_only=True)
class SupervisionCommand(Command):
    """What the correspondence loss changes, at equal steps, several seeds. Trains a base from scratch *without* the
    loss, fine-tunes it with and without (each seed sees the same samples and noise in both arms), and scores both on
    the pinned set: cross-view PCK of the supervised layer, PSNR, true against mirrored path, warp consistency. Run it
    again to go on after an interruption, or with more seeds."""

    config: Path = option(Path("configs/tiny.yaml"), "what is trained; its loss is the one tested")
    out: Path = option(Path("outputs/supervision"), "folder for runs and results")
    base: Path | None = option(None, "start from this model folder instead of training one without the loss")
    base_steps: Count = option(1200, "steps of the base")
    steps: Count = option(300, "steps of each fine-tuning")
    seeds: Count = option(3, "runs of each arm")
    cases: Count = option(16, "rendered cases of the pinned set that are scored")
    scenes: Count = option(1600, "at most so many scenes of each bank are used")
    changes: tuple[str, ...] = overrides("change single settings of all runs")


def main() -> int:
    return run(SupervisionCommand, _run, None, "supervision")


def _run(options: SupervisionCommand) -> None:
    config = _checked(options)
    began, layer = time.monotonic(), (config.loss.correspondence_layers or (config.model.tap_layer,))[0]
    base = options.base or train_in_a_process(_base(config, options))
    arms = {"without": 0.0, "with": config.loss.correspondence}
    scores = {"base": _scored(base, options.out / "base_scores.json", layer, options)}
    for seed in range(options.seeds):
        for arm, weight in arms.items():
            run = _fine_tuned(config, options, base, seed, arm, weight)
            folder = train_in_a_process(run)
            scores[f"{arm}_{seed}"] = _scored(folder, options.out / f"{arm}_{seed}_scores.json", layer, options)
    rows = {arm: [scores[f"{arm}_{seed}"] for seed in range(options.seeds)] for arm in arms}
    comparison = compare(rows["without"], rows["with"])
    gained = comparison["pck"]["difference"]["mean"]
    record = {
        "manifest": VERSIONS[-1],
        "options": {name: str(value) for name, value in asdict(options).items()},
        "layer": layer,
        "weight": config.loss.correspondence,
        "base": scores["base"],
        "comparison": comparison,
        "figures": {"pck_gain": gained},
        "targets": {"pck_gain": f">= {_PROMISED_PCK}"},
        "met": gained >= _PROMISED_PCK,
        "seconds": round(time.monotonic() - began, 1),
    }
    text = table(comparison, TITLES, scores["base"])
    text += f"\n\nLayer {layer}, weight {config.loss.correspondence}, {options.steps} steps, mean ± standard deviation "
    text += f"over seeds ({options.seeds}), {options.cases} rendered cases of the pinned set."
    write_results(options.out, "supervision", record, text)
    plot_pairs(options.out / "supervision.png", comparison, TITLES, scores["base"])
    sys.stdout.write(text + "\n" + json.dumps({k: record[k] for k in ("figures", "targets", "met")}) + "\n")


def _checked(options: SupervisionCommand) -> RunConfig:
    config = load_config(options.config, options.changes)
    if config.loss.correspondence <= 0:
        raise ValueError(f"{options.config} has loss.correspondence 0: there is nothing to compare with")
    banks = tuple(replace(bank, num_scenes=min(bank.num_scenes, options.scenes)) for bank in config.data.banks)
    return replace(config, data=replace(config.data, banks=banks))


def _base(config: RunConfig, options: SupervisionCommand) -> RunConfig:
    loss = replace(config.loss, correspondence=0.0)
    train = _short(config.train, options.base_steps, options.out / "base")
    return replace(config, loss=loss, train=train)


def _fine_tuned(
    config: RunConfig, options: SupervisionCommand, base: Path, seed: int, arm: str, weight: float
) -> RunConfig:
    rates = {name: getattr(config.optim, name) * factor for name, factor in _FINE_TUNING.items()}
    train = _short(config.train, options.steps, options.out / f"{arm}_{seed}")
    return replace(
        config,
        loss=replace(config.loss, correspondence=weight),
        optim=replace(config.optim, warmup_steps=min(20, config.optim.warmup_steps), **rates),
        train=replace(train, seed=1000 + seed, init_from=str(base)),
    )


def _short(train: TrainConfig, steps: int, run_dir: Path) -> TrainConfig:
    """The same training with other steps, that hardly stops to save or validate."""
    times = {"save_every": min(train.save_every, 400), "validate_every": steps, "validate_clips": 1, "keep_last": 1}
    return replace(train, steps=steps, run_dir=str(run_dir), **times)


def _scored(folder: Path, memo: Path, layer: int, options: SupervisionCommand) -> dict[str, float]:
    sample = SamplerOptions(8)
    weights = folder / "model.safetensors"
    key = {"model": sha256(weights), "cases": options.cases, "layer": layer, "sample": asdict(sample)}
    specs = list(load_manifest().rendered[: options.cases])
    return remembered(memo, key, lambda: score(load_model(folder), specs, layer, sample))


if __name__ == "__main__":
    sys.exit(main())
