"""An experiment: one model trained in several ways ("arms"), as a file of configs/experiments describes it.

    title: which auxiliary loss helps
    claim: both losses together are best
    config: configs/tiny.yaml
    pretraining: {steps: 1200, changes: [loss.correspondence=0]}
    steps: 300
    reference: without
    arms:
      - {name: without, title: without the loss, changes: [loss.correspondence=0]}
      - {name: with, title: with the loss}

Arms of a seed share their start, samples and noise, so differences are taken seed by seed.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import yaml

import mvtrack
from mvtrack.config.checked import Count, Share, config
from mvtrack.config.errors import did_you_mean
from mvtrack.config.run import load_training_config
from mvtrack.config.training import TrainingConfig
from mvtrack.config.tree import from_tree, to_tree

SCALES = ("miniature", "paper")
# The clone that holds configs/: the package's own, or where an installed copy is started.
_CLONES = (Path(mvtrack.__file__).resolve().parents[1], Path.cwd())
ROOT = next((folder for folder in _CLONES if (folder / "configs" / "experiments").is_dir()), _CLONES[0])
_PLACED = ("train.run_dir", "train.init_from", "train.seed", "train.steps")  # what a run says of itself


@config
class Arm:
    """One way to train. changes: `section.key=value` over the experiment's config, or all by which `config`, a file of
    its own, may differ from it."""

    name: str
    title: str
    changes: tuple[str, ...] = ()
    config: str | None = None


@config
class Pretraining:
    """The base that every arm goes on from, trained once."""

    steps: Count
    changes: tuple[str, ...] = ()


@config
class Expectation:
    """What the paper says: `arm` scores better than `than`, by the sign that is better of this score."""

    score: str
    arm: str
    than: str


@config
class Regained:
    """What is asked: `arm` gains over the base at least this share of what the arm `of` gains."""

    score: str
    arm: str
    of: str
    share: Share = 0.8


@config
class Experiment:
    """claim: the paper's, in words. config, changes: of every run; fine_tuning: of the arms alone. reference: the arm
    that the others are compared with. scored: on the pinned set, or by the last validation. curves: validations on the
    way. layers: also which layer of the base matches points best, beside what supervising each layer gains. speed_up: a
    score whose final value in the reference arm the others reach in fewer steps."""

    title: str
    claim: str
    config: str
    steps: Count
    reference: str
    arms: tuple[Arm, ...]
    expected: tuple[Expectation, ...] = ()
    regains: tuple[Regained, ...] = ()
    changes: tuple[str, ...] = ()
    fine_tuning: tuple[str, ...] = ()
    pretraining: Pretraining | None = None
    scored: Literal["pinned", "validation"] = "pinned"
    curves: Count = 2
    layers: bool = False
    speed_up: str | None = None

    def __post_init__(self) -> None:
        names = [arm.name for arm in self.arms]
        if len(set(names)) != len(names) or len(names) < 2:
            raise ValueError(f"arms must be two or more of different names, got {names}")
        told = [n for e in self.expected for n in (e.arm, e.than)] + [n for r in self.regains for n in (r.arm, r.of)]
        for name in (self.reference, *told):
            if name not in names:
                raise ValueError(f"there is no arm {name!r}{did_you_mean(name, names)}; arms: {', '.join(names)}")
        for name, used in (("layers", self.layers), ("regains", bool(self.regains))):
            if used and self.pretraining is None:
                raise ValueError(f"{name} compares with the base: it needs pretraining")


@dataclass(frozen=True)
class ArmRun:
    """One training of an experiment. arm, seed: None and -1 for the base."""

    config: TrainingConfig
    arm: str | None
    seed: int

    @property
    def folder(self) -> Path:
        return Path(self.config.train.run_dir)

    @property
    def layer(self) -> int:
        """The layer whose attention is scored: the supervised one."""
        return (self.config.loss.correspondence_layers or (self.config.model.tap_layer,))[0]


def experiments(scale: str) -> list[str]:
    return sorted(path.stem for path in (ROOT / "configs" / "experiments" / scale).glob("*.yaml"))


def load_experiment(name: str, scale: str = "miniature") -> Experiment:
    """Read configs/experiments/SCALE/NAME.yaml. Raises ValueError that names the known ones."""
    known = experiments(scale)
    if not known:
        raise ValueError(f"{ROOT} holds no configs/experiments: start it in the folder of the clone")
    if name not in known:
        hint = did_you_mean(name, known) or f"; known: {', '.join(known)}"
        raise ValueError(f"there is no experiment {name!r} at {scale} scale{hint}")
    path = ROOT / "configs" / "experiments" / scale / f"{name}.yaml"
    return from_tree(Experiment, yaml.safe_load(path.read_text()), str(path))


def base_run(experiment: Experiment, out: Path, changes: tuple[str, ...] = ()) -> ArmRun | None:
    """The training that arms go on from; None where they start from scratch or from the config's own start."""
    if experiment.pretraining is None:
        return None
    whole = (*experiment.changes, *experiment.pretraining.changes, *changes)
    config = load_training_config(ROOT / experiment.config, whole)
    return ArmRun(_placed(config, experiment, experiment.pretraining.steps, out / "base"), None, -1)


def arm_runs(experiment: Experiment, seeds: int, out: Path, changes: tuple[str, ...] = ()) -> Iterator[ArmRun]:
    """Every arm's training, seed by seed. Raises ValueError for an arm that differs from the others in more than it
    says."""
    base = base_run(experiment, out, changes)
    for seed in range(seeds):
        for arm in experiment.arms:
            config = _arm_config(experiment, arm, changes)
            placed = _placed(config, experiment, experiment.steps, out / f"{arm.name}_{seed}")
            train = replace(placed.train, seed=1000 + seed)
            if base is not None:
                train = replace(train, init_from=str(base.folder / "model"))
            yield ArmRun(replace(placed, train=train), arm.name, seed)


def _arm_config(experiment: Experiment, arm: Arm, changes: tuple[str, ...]) -> TrainingConfig:
    common = (*experiment.changes, *experiment.fine_tuning)
    said = load_training_config(ROOT / experiment.config, (*common, *arm.changes, *changes))
    if arm.config is None:
        return said
    own = load_training_config(ROOT / arm.config, changes)
    refuse_difference(said, own, f"arm {arm.name!r} ({arm.config})")
    return own


def refuse_difference(said: TrainingConfig, other: TrainingConfig, who: str) -> None:
    """Raises ValueError that lists the settings in which a run is not what its arm says, places and seeds aside."""
    ours, theirs = (dict(_leaves(to_tree(config))) for config in (said, other))
    keys = [key for key in ours | theirs if key not in _PLACED and ours.get(key) != theirs.get(key)]
    if keys:
        listed = "; ".join(f"{key} is {theirs.get(key)!r}, not {ours.get(key)!r}" for key in keys[:5])
        more = f"; and {len(keys) - 5} more" if len(keys) > 5 else ""
        raise ValueError(f"{who} differs in more than its arm says: {listed}{more}")


def _leaves(tree: dict, prefix: str = "") -> Iterator[tuple[str, object]]:
    for key, value in tree.items():
        if isinstance(value, dict):
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _placed(config: TrainingConfig, experiment: Experiment, steps: int, run_dir: Path) -> TrainingConfig:
    """The same training of other length and place, which validates only as often as its curve has points."""
    every = max(1, steps // experiment.curves)
    train = replace(
        config.train, steps=steps, run_dir=str(run_dir), validate_every=every,
        save_every=min(config.train.save_every, 400), keep_last=1,
    )  # fmt: skip
    return replace(config, train=train)
