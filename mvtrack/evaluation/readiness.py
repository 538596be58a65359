"""What an evaluation could compute here and now, metric by metric, and what each of the others lacks."""

from dataclasses import dataclass, replace
from pathlib import Path

from mvtrack.evaluation.measures.catalogue import all_metrics
from mvtrack.evaluation.measures.options import GEOMETRIES, MeasureOptions
from mvtrack.evaluation.measures.pair_features import FEATURE_KINDS
from mvtrack.evaluation.measures.weight_files import WeightFile
from mvtrack.weights.registry import WeightsEntry, registry

_IN_FOLDER = "metric"  # the registry's word for files that metrics read from the weights folder


@dataclass(frozen=True)
class Readiness:
    """One metric. missing: what it lacks with the fix, None when it can run. columns: titles of its numbers."""

    name: str
    columns: tuple[str, ...]
    missing: str | None

    @property
    def ready(self) -> bool:
        return self.missing is None


@dataclass(frozen=True)
class WeightsReadiness:
    """One file of the registry that metrics use. state: "there", "missing", or what is wrong with it."""

    entry: WeightsEntry
    path: Path | None
    state: str


def evaluation_readiness(options: MeasureOptions) -> tuple[list[Readiness], list[WeightsReadiness]]:
    """All metrics that the evaluation knows, those of every geometry and kind of features included, and all weights
    that metrics read from the weights folder."""
    metrics = all_metrics(replace(options, geometry=GEOMETRIES, geometry_model="", features=FEATURE_KINDS))
    found = [Readiness(m.name, tuple(c.title for c in m.columns if c.better != "none"), m.missing()) for m in metrics]
    return found, [_weights(entry, options.weights) for entry in registry().values() if entry.part == _IN_FOLDER]


def readiness_text(options: MeasureOptions) -> str:
    """The report as plain text, a line each: what is ready, what is missing and how to get it, and the weights."""
    metrics, weights = evaluation_readiness(options)
    ready, lacking = [m for m in metrics if m.ready], [m for m in metrics if not m.ready]
    width = max(len(m.name) for m in metrics)
    lines = [f"metrics that can run ({len(ready)} of {len(metrics)})"]
    lines += [f"  {m.name:<{width}}  {', '.join(m.columns)}" for m in ready]
    lines += [f"metrics that cannot ({len(lacking)}); their columns say `skipped: missing ...`"]
    lines += [f"  {m.name:<{width}}  missing {m.missing}" for m in lacking]
    where = options.weights or "no folder: pass --weights-dir or set $MVTRACK_WEIGHTS"
    lines += [f"weights ({where})"]
    for w in weights:
        free = {None: "licence not checked", True: "non-commercial", False: "free"}[w.entry.non_commercial]
        lines.append(f"  {Path(w.entry.file).name:<36} {w.state}; {w.entry.licence or 'see its note'} ({free})")
        if w.path is None:
            lines.append(f"    {w.entry.source}/{Path(w.entry.file).name}")
    return "\n".join(lines) + "\n"


def _weights(entry: WeightsEntry, folder: Path | None) -> WeightsReadiness:
    file = WeightFile(entry, folder)
    if file.path is None:
        return WeightsReadiness(entry, None, "missing")
    return WeightsReadiness(entry, file.path, file.missing() or f"there, SHA-256 {file.sha256[:16]}...")
