"""What an evaluation could compute here and now, and what the rest lacks: metrics, estimators, weights and licences."""

import importlib.util
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import get_args

import torch

from mvtrack.config.matching import MatchingConfig
from mvtrack.evaluation.estimators import ColmapPoses, DepthAnythingPoses, PlaneSweepDepth
from mvtrack.evaluation.interface import ESTIMATE_NEEDS, Estimator, Metric
from mvtrack.evaluation.measures.pair_features import FEATURE_KINDS
from mvtrack.evaluation.measures.registry import all_estimators, all_metrics
from mvtrack.evaluation.measures.vbench import DIMENSIONS, cache_folder
from mvtrack.evaluation.measures.weight_files import WeightFile
from mvtrack.evaluation.settings import EvaluationSettings, Geometry
from mvtrack.inference.camera_estimation.depth_anything import DepthAnythingConfig
from mvtrack.inference.view_matching import missing_matcher
from mvtrack.metrics.perceptual import packaged_heads
from mvtrack.models.weights.registry import WeightsEntry, cached_file, registry

_FREEDOM = {None: "not checked", True: "NON-COMMERCIAL: only with --non-commercial", False: "free"}
_IN_FOLDER, _IN_PACKAGE = "metric", "package"  # the registry's words for how metrics come by a file


@dataclass(frozen=True)
class Readiness:
    """A metric or estimator. missing: what it lacks with the fix, None when it can run. gives: titles of its numbers,
    or what it is chosen by."""

    name: str
    gives: tuple[str, ...]
    missing: str | None

    @property
    def ready(self) -> bool:
        return self.missing is None


@dataclass(frozen=True)
class WeightsReadiness:
    """One file of the registry that metrics or estimators use. state: "there", "missing", or what is wrong with it."""

    entry: WeightsEntry
    path: Path | None
    state: str


@dataclass(frozen=True)
class EvaluationReadiness:
    metrics: tuple[Readiness, ...]
    estimators: tuple[Readiness, ...]
    weights: tuple[WeightsReadiness, ...]


def evaluation_readiness(settings: EvaluationSettings) -> EvaluationReadiness:
    """All metrics that the evaluation knows, those of every geometry and kind of features included, as the default
    estimators let them run; all estimators; all weights of the registry that these use, wherever they are kept."""
    consistency = replace(settings.consistency, geometry=get_args(Geometry), geometry_model="", features=FEATURE_KINDS)
    metrics = all_metrics(replace(settings, consistency=consistency))
    estimators = all_estimators()
    return EvaluationReadiness(
        tuple(
            Readiness(m.name, tuple(c.title for c in m.columns if c.better != "none"), _lacking(m, estimators))
            for m in metrics
        ),
        (
            *(Readiness(e.name, (chosen,), e.missing()) for chosen, e in _estimators(settings).items()),
            *_matchers(settings),
        ),
        tuple(_weights(entry, settings.weights) for entry in registry().values() if not entry.of_model),
    )


def readiness_text(settings: EvaluationSettings) -> str:
    """The report as plain text, a line each: what is ready, what is missing and how to get it, and the weights."""
    found = evaluation_readiness(settings)
    ready, lacking = [m for m in found.metrics if m.ready], [m for m in found.metrics if not m.ready]
    width = max(len(m.name) for m in found.metrics)
    lines = [f"metrics that can run ({len(ready)} of {len(found.metrics)})"]
    lines += [f"  {m.name:<{width}}  {', '.join(m.gives)}" for m in ready]
    lines += [f"metrics that cannot ({len(lacking)}); their columns say `skipped: missing ...`"]
    lines += [f"  {m.name:<{width}}  missing {m.missing}" for m in lacking]
    lines += ["estimators"]
    for e in found.estimators:
        lines.append(f"  {e.name:<{width}}  {e.gives[0]}: {'can run' if e.ready else f'missing {e.missing}'}")
    where = settings.weights or "no folder: set weights in --settings FILE, or $MVTRACK_WEIGHTS"
    lines += [f"weights ({where})"]
    lines += [line for w in found.weights if w.entry.part == _IN_FOLDER for line in _weights_lines(w)]
    lines += ["weights that packages and other environments keep (VBench's cache, the hub's, torch.hub's)"]
    lines += [line for w in found.weights if w.entry.part != _IN_FOLDER for line in _weights_lines(w)]
    return "\n".join(lines) + "\n"


def _lacking(metric: Metric, estimators: dict[str, Estimator]) -> str | None:
    """What a metric itself lacks, else what the estimators lack that it needs."""
    used = (estimators[need.split(".")[1]] for need in metric.needs if need in ESTIMATE_NEEDS)
    return metric.missing() or next(filter(None, (estimator.missing() for estimator in used)), None)


def _estimators(settings: EvaluationSettings) -> dict[str, Estimator]:
    """By how they are chosen; `files` and `truth` need no more than their files and the benchmark."""
    learned = DepthAnythingConfig(settings.environments.python("depth_anything_3"))
    return {
        "poses.estimator colmap (default)": ColmapPoses(),
        f"poses.estimator depth_anything_3, {learned.model}": DepthAnythingPoses(learned),
        "estimated depth": PlaneSweepDepth(),
    }


def _matchers(settings: EvaluationSettings) -> Iterator[Readiness]:
    """Those that the settings do not choose are told without weights."""
    for name in get_args(MatchingConfig.__annotations__["matcher"]):
        own = settings.matching if settings.matching.matcher == name else None
        other = MatchingConfig(name, weights=None if name == "sift" else Path("WEIGHTS"))
        yield Readiness(f"matches by {name}", (f"matching.matcher {name}",), missing_matcher(own or other))


def _weights(entry: WeightsEntry, folder: Path | None) -> WeightsReadiness:
    if entry.part == _IN_FOLDER:
        file = WeightFile(entry, folder)
        if file.path is None:
            return WeightsReadiness(entry, None, "missing")
        return WeightsReadiness(entry, file.path, file.missing() or f"there, SHA-256 {file.sha256[:16]}...")
    if entry.from_hub and importlib.util.find_spec("huggingface_hub") is None:
        return WeightsReadiness(entry, None, "not looked up, huggingface_hub is not installed")
    path = _kept_elsewhere(entry)
    return WeightsReadiness(entry, path, "missing" if path is None else f"there, {path}")


def _kept_elsewhere(entry: WeightsEntry) -> Path | None:
    """Where the package or cache that is to hold a file has it; None where it has not."""
    if entry.part == _IN_PACKAGE:
        return packaged_heads(Path(entry.file).stem)
    if entry.from_hub:
        return cached_file(entry)
    of_vbench = {name: file for d in DIMENSIONS.values() for name, file in d.weights}
    in_torch_hub = Path(torch.hub.get_dir()) / "checkpoints" / Path(entry.file).name
    path = cache_folder() / of_vbench[entry.name] if entry.name in of_vbench else in_torch_hub
    return path if path.is_file() else None


def _weights_lines(found: WeightsReadiness) -> list[str]:
    entry = found.entry
    free = _FREEDOM[entry.non_commercial]
    name = Path(entry.source).name if entry.from_hub else Path(entry.file).name
    users = ", ".join(user.removeprefix("metric ") for user in entry.needed_by)
    lines = [f"  {name:<36} {found.state}; {entry.licence or 'see its note'} ({free}); for {users}"]
    if found.path is None:
        address = entry.source if entry.from_hub else f"{entry.source}/{Path(entry.file).name}"
        lines.append(f"    {entry.note if entry.part == _IN_PACKAGE else address}")
    return lines
