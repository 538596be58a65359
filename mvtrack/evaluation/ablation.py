"""Experiments that train one model in several ways ("arms"), a few seeds each, and compare what comes out."""

import json
import math
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import yaml

import mvtrack
from mvtrack.config.run import RunConfig
from mvtrack.config.tree import to_tree
from mvtrack.evaluation.tables import markdown_table, mean_interval

Scores = dict[str, float]


def train_in_a_process(config: RunConfig) -> Path:
    """Train as `mvtrack train --resume auto` does, in a process of its own; returns the folder of the model.

    A run that has finished is left as it is, one that was interrupted goes on. Raises ValueError when training fails.
    """
    run_dir = Path(config.train.run_dir)
    done = run_dir / "model" / "training.json"
    if done.is_file() and json.loads(done.read_text())["step"] == config.train.steps:
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


def compare(without: list[Scores], with_it: list[Scores]) -> dict[str, dict]:
    """Per score: mean and standard deviation over seeds of both arms and of their difference, seed by seed."""
    out = {}
    for name in without[0]:
        before, after = (np.array([row[name] for row in rows]) for rows in (without, with_it))
        columns = {"without": before, "with": after, "difference": after - before}
        out[name] = {arm: spread(values.tolist()) for arm, values in columns.items()}
    return out


def spread(values: list[float]) -> dict:
    """Mean, sample standard deviation (None for one value) and the values. Raises ValueError for values not finite."""
    mean = mean_interval(values)["mean"]
    return {"mean": mean, "sd": float(np.std(values, ddof=1)) if len(values) > 1 else None, "values": values}


def table(comparison: dict[str, dict], titles: dict[str, tuple[str, float, str]], base: Scores | None = None) -> str:
    """Markdown, one score a line. titles: per score what it is called, a factor, and how its numbers are written."""
    head = ["", *(["before"] if base else []), "without", "with", "difference"]
    rows = []
    for name, (title, factor, form) in titles.items():
        cells = [] if base is None else [format(base[name] * factor, form)]
        for arm in ("without", "with", "difference"):
            mean, deviation = (comparison[name][arm][part] for part in ("mean", "sd"))
            spreads = "" if deviation is None else f" ± {deviation * factor:{form}}"
            cells.append(f"{mean * factor:{'+' if arm == 'difference' else ''}{form}}{spreads}")
        rows.append([title, *cells])
    return markdown_table(head, rows)


def plot_pairs(
    path: Path, comparison: dict[str, dict], titles: dict[str, tuple[str, float, str]], base: Scores | None = None
) -> None:
    """A PNG: one panel a score, one line a seed, from the model before over the arm without to the one with."""
    with _panels(path, [title for title, *_ in titles.values()], 4, 3.6) as panels:
        for axes, (name, (_, factor, _)) in zip(panels, titles.items(), strict=True):
            if base:
                axes.plot(["before"], [base[name] * factor], "o", color="0.4")
                axes.axhline(base[name] * factor, color="0.5", linestyle="--", linewidth=1)
            for pair in zip(*(comparison[name][arm]["values"] for arm in ("without", "with")), strict=True):
                axes.plot(["without", "with"], [value * factor for value in pair], "o-", color="tab:blue", alpha=0.7)
            axes.margins(x=0.2)


@contextmanager
def _panels(path: Path, titles: list[str], columns: int, width: float) -> Iterator[list]:
    """Axes of a PNG that is written in the end, one a title."""
    from matplotlib.figure import Figure

    rows = math.ceil(len(titles) / columns)
    figure, panels = Figure(figsize=(width * columns, 3.0 * rows), layout="constrained"), []
    for i, title in enumerate(titles):
        panels.append(figure.add_subplot(rows, columns, i + 1))
        panels[-1].set_title(title, fontsize=9)
        panels[-1].tick_params(labelsize=8)
    yield panels
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)


def read_curves(metrics: Path, names: list[str]) -> dict[str, list[float]]:
    """What a run's metrics.jsonl says about some scores: `step`, and each score at these steps."""
    rows = [json.loads(line) for line in metrics.read_text().splitlines()]
    rows = [row for row in rows if all(name in row for name in names)]
    if not rows:
        raise ValueError(f"{metrics} has no line with {', '.join(names)}")
    return {name: [row[name] for row in rows] for name in ("step", *names)}


def curve_table(runs: dict[str, list[dict[str, list[float]]]], titles: dict[str, tuple[str, str]]) -> str:
    """Markdown: each score by step, mean ± standard deviation over the runs (seeds) of each arm."""
    steps = next(iter(runs.values()))[0]["step"]
    rows = []
    for name, (title, form) in titles.items():
        for arm, curves in runs.items():
            cells = []
            for values in zip(*(curve[name] for curve in curves), strict=True):
                figure = spread(list(values))
                cells.append(format(figure["mean"], form) + ("" if len(values) < 2 else f" ± {figure['sd']:{form}}"))
            rows.append([f"{title}, {arm}", *cells])
    return markdown_table(["", *(f"step {step}" for step in steps)], rows)


def plot_curves(path: Path, runs: dict[str, list[dict[str, list[float]]]], titles: dict[str, tuple[str, str]]) -> None:
    """A PNG: one panel a score over steps, thin lines the seeds, thick lines the arms' means."""
    with _panels(path, [title for title, _ in titles.values()], min(2, len(titles)), 4.2) as panels:
        for axes, name in zip(panels, titles, strict=True):
            for colour, (arm, curves) in zip(("tab:gray", "tab:blue"), runs.items(), strict=True):
                for curve in curves:
                    axes.plot(curve["step"], curve[name], color=colour, linewidth=0.8, alpha=0.5)
                mean, thick = np.mean([curve[name] for curve in curves], 0), {"linewidth": 2, "markersize": 3}
                axes.plot(curves[0]["step"], mean, "o-", color=colour, label=f"{arm} the loss", **thick)
            axes.set_xlabel("step", fontsize=8)
            axes.legend(fontsize=7)
