"""Training the runs of an experiment, each in a process of its own, and what they will take."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
import yaml

import mvtrack
from mvtrack.config.decoder import DecoderRunConfig
from mvtrack.config.run import training_from_tree
from mvtrack.config.training import TrainingConfig
from mvtrack.config.tree import to_tree
from mvtrack.evaluation.ablation.experiment import ArmRun, refuse_difference
from mvtrack.models.networks import build_network
from mvtrack.training.decoder_run import new_aligner

_TIMED_STEPS = 6
_BYTES_A_WEIGHT = 2 * (4 + 4 + 4 + 8) + 4  # two checkpoints while one replaces the other, and the model


def train_in_a_process(config: TrainingConfig) -> Path:
    """Train as `mvtrack train --resume auto` does, in a process of its own; returns the folder of the model.

    A run that has finished is left as it is, one that was interrupted goes on. Raises ValueError when training fails,
    and for a folder that holds a run of other settings.
    """
    run_dir = Path(config.train.run_dir)
    if (run_dir / "config.yaml").is_file():
        there = training_from_tree(yaml.safe_load((run_dir / "config.yaml").read_text()), str(run_dir))
        refuse_difference(config, there, str(run_dir))
    if steps_done(run_dir) == config.train.steps:
        return run_dir / "model"
    run_dir.parent.mkdir(parents=True, exist_ok=True)
    path = run_dir.with_suffix(".yaml")
    path.write_text(yaml.safe_dump(to_tree(config), sort_keys=False))
    entry = Path(mvtrack.__file__).with_name("train.py")
    command = [sys.executable, str(entry), "--config", str(path), "--resume", "auto"]
    code = subprocess.run(command, stdout=sys.stderr).returncode
    if code:
        raise ValueError(f"training of {run_dir} ended with exit code {code}; the reason is above")
    return run_dir / "model"


def take_over(run: ArmRun, tables: Path) -> None:
    """Link to a finished run of the same settings, seed, length and start that another table in the folder trained."""
    if run.folder.exists():
        return
    run.folder.unlink(missing_ok=True)  # a link to what is gone
    asked = _identity(to_tree(run.config))
    for path in sorted(tables.glob("*/*/config.yaml")):
        if steps_done(path.parent) and not path.parent.is_symlink() and _identity(_read(path)) == asked:
            run.folder.parent.mkdir(parents=True, exist_ok=True)
            run.folder.symlink_to(path.parent.resolve(), target_is_directory=True)
            return


def _read(path: Path) -> dict:
    return to_tree(training_from_tree(yaml.safe_load(path.read_text()), str(path)))


def _identity(tree: dict) -> tuple:
    """A run's settings without its folder, and those of the run that it starts from."""
    train = {name: value for name, value in tree["train"].items() if name not in ("run_dir", "init_from")}
    start = tree["train"]["init_from"]
    config = Path(start or "", "..", "config.yaml")
    return tree | {"train": train}, _identity(_read(config)) if start and config.is_file() else start


def steps_done(run_dir: Path) -> int:
    """Steps of a run that ended; 0 of one that has not."""
    done = run_dir / "model" / "training.json"
    return json.loads(done.read_text())["step"] if done.is_file() else 0


def remembered(path: Path, key: dict, measure: Callable[[], dict]) -> dict:
    """What `measure()` gave, from a JSON file if that was written under the same key; else measured and written."""
    if path.is_file():
        record = json.loads(path.read_text())
        if record["key"] == key:
            return record["scores"]
    scores = measure()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"key": key, "scores": scores}, indent=1))
    return scores


def seconds_a_step(config: TrainingConfig, scratch: Path) -> float:
    """Of a training on this machine, by its first steps without the very first, which compiles."""
    train = replace(
        config.train, steps=_TIMED_STEPS, run_dir=str(scratch), log_every=1, save_every=10 * _TIMED_STEPS,
        validate_every=10 * _TIMED_STEPS, validate_clips=1, init_from=None, init_lora=(),
    )  # fmt: skip
    optim = replace(config.optim, lora=None, trainable=("*",)) if config.optim.lora else config.optim  # no base yet
    try:
        train_in_a_process(replace(config, train=train, optim=optim))
        lines = [json.loads(line) for line in (scratch / "metrics.jsonl").read_text().splitlines()]
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    elapsed = {line["step"]: line["elapsed_s"] for line in reversed(lines)}
    first, last = min(elapsed) + 1, _TIMED_STEPS
    return (elapsed[last] - elapsed[first]) / (last - first)


def disk_bytes(runs: list[ArmRun]) -> int:
    """What the folders of runs will hold at most, what they hold already left out."""
    with torch.device("meta"):
        weights = {run.arm: _weights(run.config) for run in runs}
    return sum(_BYTES_A_WEIGHT * weights[run.arm] for run in runs if not run.folder.exists())


def _weights(config: TrainingConfig) -> int:
    network = new_aligner(config) if isinstance(config, DecoderRunConfig) else build_network(config.model)
    return sum(p.numel() for p in network.parameters())


def forecast(runs: list[ArmRun], out: Path, hours: float | None) -> str:
    """One line: steps to go, hours, disk. Raises ValueError where disk or the hours allowed are too little."""
    left = [run for run in runs if steps_done(run.folder) != run.config.train.steps]
    if not left:
        return "all runs have ended"
    out.mkdir(parents=True, exist_ok=True)
    needed, free = disk_bytes(left), shutil.disk_usage(out).free
    if needed > free:
        raise ValueError(f"{out}: the runs need {needed / 1e9:.1f} GB of disk, {free / 1e9:.1f} are free")
    speed = {}
    for run in left:
        if run.arm not in speed:
            speed[run.arm] = seconds_a_step(run.config, out / ".timing")
    takes = sum(speed[run.arm] * run.config.train.steps for run in left) / 3600
    if hours is not None and takes > hours:
        raise ValueError(
            f"{len(left)} runs take about {takes:.1f} h here, --hours allows {hours:g}: fewer --seeds or --steps"
        )
    return f"{len(left)} runs to go: about {takes:.1f} h of training on this machine, {needed / 1e6:.0f} MB of disk"
