"""What an experiment says: a table of arms, paired differences, curves, and whether the paper's order holds."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from mvtrack.evaluation.ablation.experiment import Experiment
from mvtrack.evaluation.ablation.scores import TITLES, Scores
from mvtrack.evaluation.tables import markdown_table, mean_interval

Runs = dict[str, list[Scores]]  # scores by arm, one a seed


def spread(values: list[float]) -> dict:
    """Mean, sample standard deviation (None for one value) and the values. Raises ValueError for values not finite."""
    mean = mean_interval(values)["mean"]
    return {"mean": mean, "sd": float(np.std(values, ddof=1)) if len(values) > 1 else None, "values": values}


def compare(runs: Runs, reference: str) -> dict[str, dict[str, dict]]:
    """By score and arm: mean and deviation over seeds, and the same of the difference from the reference arm, which is
    taken seed by seed; its `interval` is a 95 % bootstrap over cases, whose differences are means over seeds."""
    out: dict[str, dict[str, dict]] = {}
    for name in runs[reference][0]:
        base = np.array([row[name] for row in runs[reference]])
        out[name] = {}
        for arm, rows in runs.items():
            values = np.array([row[name] for row in rows])
            out[name][arm] = spread(values.mean(1).tolist())
            if arm != reference:
                difference = values - base
                interval = mean_interval(difference.mean(0).tolist()) if difference.shape[1] > 1 else None
                out[name][arm]["difference"] = spread(difference.mean(1).tolist()) | {"interval": interval}
    return out


def arms_table(experiment: Experiment, comparison: dict[str, dict[str, dict]], base: Scores | None = None) -> str:
    """Markdown, one score a line, one arm a column; differences from the reference arm in brackets."""
    head = ["", *(["the base"] if base else []), *(arm.title for arm in experiment.arms)]
    rows = []
    for name, by_arm in comparison.items():
        title = TITLES[name]
        cells = [format(float(np.mean(base[name])) * title.factor, title.form)] if base else []
        for arm in experiment.arms:
            cells.append(_with_spread(by_arm[arm.name], title.factor, title.form))
            if arm.name != experiment.reference:
                cells[-1] += f" ({_with_spread(by_arm[arm.name]['difference'], title.factor, '+' + title.form)})"
        rows.append([title.text, *cells])
    return markdown_table(head, rows)


def _with_spread(figure: dict, factor: float, form: str) -> str:
    deviation = "" if figure["sd"] is None else f" ± {figure['sd'] * factor:{form.removeprefix('+')}}"
    return f"{figure['mean'] * factor:{form}}{deviation}"


def verdicts(experiment: Experiment, runs: Runs) -> list[dict]:
    """For each thing the paper says: the difference in the direction that is better, seed by seed, and `holds` (every
    seed, and several cases' interval, on that side, the mean farther than the seeds' spread), `reversed`, or `cannot be
    told`, which one seed alone never can: its spread is not known."""
    out = []
    for said in experiment.expected:
        sign = 1 if TITLES[said.score].more_is_better else -1
        pairs = zip(runs[said.arm], runs[said.than], strict=True)
        difference = sign * np.array([np.subtract(a[said.score], b[said.score]) for a, b in pairs])
        by_seed, by_case = difference.mean(1), difference.mean(0)
        interval = mean_interval(by_case.tolist()) if len(by_case) > 1 else None
        sure = interval is None or interval["low"] > 0 or interval["high"] < 0
        better_by = spread(by_seed.tolist())
        one_sided = np.all(by_seed > 0) or np.all(by_seed < 0)
        clear = sure and one_sided and better_by["sd"] is not None and abs(better_by["mean"]) > better_by["sd"]
        word = "cannot be told" if not clear else "holds" if by_seed.mean() > 0 else "reversed"
        out.append(
            {"score": said.score, "arm": said.arm, "than": said.than, "better_by": better_by,
             "interval": interval, "verdict": word}
        )  # fmt: skip
    return out


def regained(experiment: Experiment, comparison: dict, base: Scores | None) -> list[dict]:
    """For each share of another arm's gain over the base that is asked: `reached`, the share (None where the other arm
    gains nothing), and whether it `holds`."""
    out = []
    for asked in experiment.regains:
        start = float(np.mean(base[asked.score]))
        gain, whole = (comparison[asked.score][name]["mean"] - start for name in (asked.arm, asked.of))
        sign = 1 if TITLES[asked.score].more_is_better else -1
        reached = gain / whole if sign * whole > 0 else None
        holds = reached is not None and reached >= asked.share
        word = "cannot be told" if reached is None else "holds" if holds else "falls short"
        out.append({"score": asked.score, "arm": asked.arm, "of": asked.of, "reached": reached, "verdict": word})
    return out


def regained_lines(experiment: Experiment, found: list[dict]) -> str:
    """The same in plain words."""
    titles = {arm.name: arm.title for arm in experiment.arms}
    shares = ["none" if r["reached"] is None else f"{r['reached']:.0%}" for r in found]
    return "\n".join(
        f"- {titles[r['arm']]} regains {share} of the gain of {titles[r['of']]}, {TITLES[r['score']].text}: "
        f"**{r['verdict']}**"
        for r, share in zip(found, shares, strict=True)
    )


def verdict_lines(experiment: Experiment, found: list[dict]) -> str:
    """The verdicts in plain words."""
    titles = {arm.name: arm.title for arm in experiment.arms}
    lines = []
    for v in found:
        title = TITLES[v["score"]]
        better = _with_spread(v["better_by"], title.factor, "+" + title.form)
        lines.append(f"- {titles[v['arm']]} over {titles[v['than']]}, {title.text}: {better}: **{v['verdict']}**")
    return "\n".join(lines)


def steps_to_reach(runs: Runs, reference: str, score: str) -> dict[str, float | None]:
    """By arm: the step from which its mean curve stays at the reference arm's final mean or above, interpolated; None
    if it never does. First steps, which can score well by being blurred, do not count where the curve falls again."""
    sign = 1 if TITLES[score].more_is_better else -1
    goal = sign * np.mean([curve[score][-1] for curve in runs[reference]])
    out: dict[str, float | None] = {}
    for arm, curves in runs.items():
        steps, mean = curves[0]["step"], sign * np.mean([curve[score] for curve in curves], 0)
        below = np.flatnonzero(mean < goal)
        i = int(below[-1]) + 1 if len(below) else 0
        if i == len(mean):
            out[arm] = None
            continue
        share = 1.0 if i == 0 else float((goal - mean[i - 1]) / (mean[i] - mean[i - 1]))
        out[arm] = float(steps[i]) if i == 0 else steps[i - 1] + share * (steps[i] - steps[i - 1])
    return out


def rank_correlation(a: list[float], b: list[float]) -> float:
    """Spearman's, without ties."""
    ranks = [np.argsort(np.argsort(values)) for values in (a, b)]
    return float(np.corrcoef(*ranks)[0, 1])


def curve_table(runs: Runs) -> str:
    """Markdown: each score of the validations by step, mean ± standard deviation over the seeds of each arm."""
    first = next(iter(runs.values()))[0]
    rows = []
    for name in first:
        if name == "step":
            continue
        for arm, curves in runs.items():
            columns = zip(*(curve[name] for curve in curves), strict=True)
            title = TITLES[name]
            cells = [_with_spread(spread(list(values)), title.factor, title.form) for values in columns]
            rows.append([f"{title.text}, {arm}", *cells])
    return markdown_table(["", *(f"step {step}" for step in first["step"])], rows)


def plot_arms(path: Path, experiment: Experiment, comparison: dict, base: Scores | None = None) -> None:
    """A PNG: one panel a score, the seeds of every arm as points, seeds joined."""
    names = [arm.name for arm in experiment.arms]
    with _panels(path, [TITLES[name].text for name in comparison], 4, 3.8) as panels:
        for axes, (name, by_arm) in zip(panels, comparison.items(), strict=True):
            factor = TITLES[name].factor
            if base:
                axes.axhline(float(np.mean(base[name])) * factor, color="0.5", linestyle="--", linewidth=1)
            for seed in zip(*(by_arm[arm]["values"] for arm in names), strict=True):
                axes.plot(names, [value * factor for value in seed], "o-", color="tab:blue", alpha=0.6)
            axes.tick_params(axis="x", rotation=30)
            axes.margins(x=0.15)


def plot_curves(path: Path, runs: Runs) -> None:
    """A PNG: one panel a score over steps, thin lines the seeds, thick lines the arms' means."""
    names = [name for name in next(iter(runs.values()))[0] if name != "step"]
    with _panels(path, [TITLES[name].text for name in names], min(2, len(names)), 4.6) as panels:
        for axes, name in zip(panels, names, strict=True):
            for i, (arm, curves) in enumerate(runs.items()):
                shown = TITLES[name].factor * np.array([curve[name] for curve in curves])
                for values in shown:
                    axes.plot(curves[0]["step"], values, color=f"C{i}", linewidth=0.8, alpha=0.5)
                axes.plot(curves[0]["step"], shown.mean(0), "o-", color=f"C{i}", label=arm, linewidth=2, markersize=3)
            axes.set_xlabel("step", fontsize=8)
            axes.legend(fontsize=7)


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
    figure.suptitle("rendered miniature", fontsize=8, color="0.4")
    yield panels
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
