"""What reports share: means with bootstrap intervals, tables in Markdown, and the files of a result."""

import json
from collections.abc import Iterable, Sequence
from importlib import metadata
from pathlib import Path

import numpy as np

from mvtrack.files.cache import sha256


def mean_interval(values: list[float], draws: int = 2000, seed: int = 0) -> dict[str, float]:
    """Mean, its 95 % percentile-bootstrap interval and the count. Raises ValueError on no or non-finite values."""
    array = np.asarray(values, dtype=np.float64)
    if array.size == 0 or not np.isfinite(array).all():
        raise ValueError(f"cannot average {array.size} values of which {np.isnan(array).sum()} are NaN")
    index = np.random.default_rng(seed).integers(0, len(array), (draws, len(array)))
    low, high = np.percentile(array[index].mean(1), [2.5, 97.5])
    return {"mean": float(array.mean()), "low": float(low), "high": float(high), "count": len(array)}


def interval_text(figure: dict[str, float], digits: int = 3) -> str:
    """What `mean_interval` found, as tables show it."""
    return f"{figure['mean']:.{digits}f} ({figure['low']:.{digits}f} to {figure['high']:.{digits}f})"


def markdown_table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table in Markdown; a cell's own bars become slashes."""
    lines = ["| " + " | ".join(cell.replace("|", "/") for cell in row) + " |" for row in (head, *rows)]
    return "\n".join([lines[0], "|" + "---|" * len(head), *lines[1:]])


def figures_table(figures: dict[str, dict[str, dict[str, float]]]) -> str:
    """Means with intervals by row and column; columns are those of the first row that has them."""
    names = list(dict.fromkeys(name for row in figures.values() for name in row))
    rows = [[who, *(interval_text(row[n]) if n in row else "-" for n in names)] for who, row in figures.items()]
    return markdown_table(["", *names], rows)


def met_targets(figures: dict[str, tuple[float, str, object]]) -> dict[str, dict]:
    """What was reached, the target, and whether it is met. figures: value, one of `>= > <= in`, and the bound or both
    ends, by name."""
    is_met = {
        ">=": lambda value, bound: value >= bound,
        ">": lambda value, bound: value > bound,
        "<=": lambda value, bound: value <= bound,
        "in": lambda value, ends: ends[0] <= value <= ends[1],
    }
    return {
        name: {"value": value, "target": f"{op} {bound}", "met": is_met[op](value, bound)}
        for name, (value, op, bound) in figures.items()
    }


def targets_table(targets: dict[str, dict]) -> str:
    """What `met_targets` found, in Markdown."""
    rows = [[name, f"{t['value']:.3f}", t["target"], "yes" if t["met"] else "**no**"] for name, t in targets.items()]
    return markdown_table(["target", "reached", "asked", "met"], rows)


def model_record(folder: Path) -> dict[str, str]:
    """Which model was scored."""
    return {"folder": str(folder), "sha256": sha256(folder / "model.safetensors")}


def write_results(out: Path, name: str, record: dict, text: str, table: str | None = None) -> None:
    """<name>.json, with the project's version, and <table or name>.md."""
    out.mkdir(parents=True, exist_ok=True)
    record = {"mvtrack": metadata.version("mvtrack")} | record
    (out / f"{name}.json").write_text(json.dumps(record, indent=1))
    (out / f"{table or name}.md").write_text(text + "\n")
