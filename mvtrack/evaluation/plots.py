"""The analysis's charts: heat maps with numbers, curves, and values by layer with their intervals."""

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from jaxtyping import Float
from matplotlib.figure import Figure

_NUMBERED = 160  # cells; in a larger map the numbers could not be read
_NAMED = 8  # lines; of more only the highest three are
_DPI = 110
_LETTER = 0.07  # inches that a letter of a heat map's title takes


@dataclass(frozen=True)
class HeatMap:
    """values: rows run down, columns to the right. low_is_good turns the colours around: bright is always good."""

    title: str
    values: Float[np.ndarray, "rows columns"]
    rows: str
    columns: str
    column_labels: list[str]
    low_is_good: bool = False


@dataclass(frozen=True)
class Curves:
    """One line per layer, `values` (layers, points) over `x`, from left to right as given; NaN leaves a gap.

    dashed: a line to compare with, and its name.
    """

    title: str
    x: list[float]
    values: Float[np.ndarray, "layers points"]
    x_name: str
    y_name: str
    dashed: tuple[str, list[float]] | None = None


@dataclass(frozen=True)
class ByLayer:
    """Bars per layer, one colour per name; `low` and `high` are ends of their intervals, where there are any."""

    title: str
    y_name: str
    values: dict[str, list[float]]
    intervals: dict[str, list[tuple[float, float]]] = field(default_factory=dict)
    notes: dict[str, list[str]] = field(default_factory=dict)  # a word above each bar
    x_name: str = "layer"


def draw_heat_maps(path: Path, rows: list[list[HeatMap]]) -> None:
    """Write a PNG with a grid of heat maps, each with a scale of its own."""
    tall, wide = rows[0][0].values.shape
    longest = max(len(line) for row in rows for heat in row for line in heat.title.split("\n"))
    size = (len(rows[0]) * max(1.7 + 0.36 * wide, 0.6 + _LETTER * longest), len(rows) * (1.2 + 0.24 * tall))
    figure = Figure(figsize=size, dpi=_DPI, layout="constrained")
    for plot, heat in zip(figure.subplots(len(rows), len(rows[0]), squeeze=False).flat, sum(rows, []), strict=True):
        colours = "viridis_r" if heat.low_is_good else "viridis"
        image = plot.imshow(heat.values, cmap=colours, aspect="auto", interpolation="nearest")
        plot.set_title(heat.title, fontsize=9)
        plot.set_ylabel(heat.rows, fontsize=8)
        plot.set_xlabel(heat.columns, fontsize=8)
        every = max(1, -(-heat.values.shape[1] // 12))
        plot.set_xticks(range(0, heat.values.shape[1], every), heat.column_labels[::every])
        plot.set_yticks(range(0, tall, max(1, -(-tall // 16))))
        plot.tick_params(labelsize=7, length=2)
        if heat.values.size <= _NUMBERED:
            _write_numbers(plot, heat, image)
        else:
            figure.colorbar(image, ax=plot).ax.tick_params(labelsize=7)
    figure.savefig(path)


def _write_numbers(plot, heat: HeatMap, image) -> None:
    for (i, j), value in np.ndenumerate(heat.values):
        red, green, blue, _ = image.cmap(image.norm(value))
        ink = "black" if 0.3 * red + 0.6 * green + 0.1 * blue > 0.5 else "white"
        plot.text(j, i, short(float(value)), ha="center", va="center", fontsize=6.5, color=ink)


def short(value: float) -> str:
    """A number in at most five characters or so."""
    if not np.isfinite(value):
        return "-"
    return f"{value:.2f}" if abs(value) >= 0.095 or value == 0 else f"{value:.3f}".replace("0.", ".")


def draw_curves(path: Path, panels: list[Curves]) -> None:
    """Write a PNG with panels side by side; lines are named at their ends (layers count from 0)."""
    figure = Figure(figsize=(4.6 * len(panels), 3.6), dpi=_DPI, layout="constrained")
    for plot, panel in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
        plot.set_title(panel.title, fontsize=10)
        plot.set_xlabel(panel.x_name, fontsize=9)
        plot.set_ylabel(panel.y_name, fontsize=9)
        colours = _layer_colours(len(panel.values))
        for line, colour in zip(panel.values, colours, strict=True):
            plot.plot(panel.x, line, color=colour, linewidth=1.6, marker="o", markersize=2.5)
        if panel.dashed is not None:
            plot.plot(panel.x, panel.dashed[1], color="#606060", linewidth=1, linestyle="--", label=panel.dashed[0])
            plot.legend(fontsize=8, loc="upper center", bbox_to_anchor=(0.5, -0.17), frameon=False)  # covers no line
        _name_lines(plot, panel, colours)
        plot.grid(alpha=0.25)
        plot.tick_params(labelsize=8)
    figure.savefig(path)


def _layer_colours(count: int) -> list:
    from matplotlib import colormaps

    if count <= 10:
        return list(colormaps["tab10"].colors[:count])
    return [colormaps["viridis"](x) for x in np.linspace(0, 0.95, count)]


def _name_lines(plot, panel: Curves, colours: list) -> None:
    """The layer's number beside each line's end, pushed apart; of many lines only the three highest."""
    known = [np.flatnonzero(np.isfinite(line)) for line in panel.values]
    ends = {i: (panel.x[k[-1]], float(panel.values[i, k[-1]])) for i, k in enumerate(known) if len(k)}
    order = sorted(ends, key=lambda i: ends[i][1])
    named = order if len(order) <= _NAMED else order[-3:]
    low, high = plot.get_ylim()
    gap, last = 0.045 * (high - low), -np.inf
    for i in named:
        last = max(ends[i][1], last + gap)
        text = f"layer {i}" if i == named[-1] else str(i)
        place = (ends[i][0], last)
        plot.annotate(text, place, (5, 0), textcoords="offset points", color=colours[i], fontsize=8, va="center")
    first, last = panel.x[0], panel.x[-1]
    reach = last - first or 1
    plot.set_xlim(first - 0.05 * reach, last + 0.2 * reach)  # room for the names


def draw_by_layer(path: Path, panels: list[ByLayer]) -> None:
    """Write a PNG with bars by layer, panels below each other."""
    layers = len(next(iter(panels[0].values.values())))
    size = (max(5.0, 1.5 + 0.75 * layers), 3.0 * len(panels))
    figure = Figure(figsize=size, dpi=_DPI, layout="constrained")
    for plot, panel in zip(figure.subplots(len(panels), 1, squeeze=False)[:, 0], panels, strict=True):
        plot.set_title(panel.title, fontsize=10)
        plot.set_xlabel(panel.x_name, fontsize=9)
        plot.set_ylabel(panel.y_name, fontsize=9)
        width = 0.8 / len(panel.values)
        for n, (name, values) in enumerate(panel.values.items()):
            x = np.arange(layers) + (n - (len(panel.values) - 1) / 2) * width
            plot.bar(x, values, width, label=name, color=f"C{n}", alpha=0.85)
            for at, (low, high) in zip(x, panel.intervals.get(name, []), strict=False):
                plot.plot([at, at], [low, high], color="#303030", linewidth=1)
            for at, value, note in zip(x, values, panel.notes.get(name, []), strict=False):
                plot.annotate(note, (at, max(value, 0)), (0, 2), textcoords="offset points", ha="center", fontsize=7)
        plot.axhline(0, color="#303030", linewidth=0.8)
        plot.set_xticks(range(0, layers, max(1, layers // 16)))
        plot.margins(y=0.15)
        plot.legend(fontsize=8)
        plot.grid(axis="y", alpha=0.25)
        plot.tick_params(labelsize=8)
    figure.savefig(path)
