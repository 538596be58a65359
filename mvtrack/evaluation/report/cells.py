"""What stands in a table's cells, before Markdown or LaTeX: text, whether it is the best, and the change."""

from dataclasses import dataclass

from mvtrack.evaluation.report.columns import OTHERS
from mvtrack.evaluation.report.details import number

Summary = dict


@dataclass(frozen=True)
class Cell:
    """value: "–" for none. change: signed; is_gain: whether it is for the better. coverage: "6/8" if not all count."""

    value: str
    is_best: bool = False
    change: str = ""
    is_gain: bool | None = None
    coverage: str = ""


@dataclass(frozen=True)
class Line:
    """One row of a table: its group is a heading that is written when it differs from the row before."""

    group: str
    title: str
    cells: tuple[Cell, ...]


def scored_lines(summary: Summary) -> list[Line]:
    """Rows of what was measured here. The best is marked among rows that are no bounds, and only where all count."""
    columns, best = shown_columns(summary), _best_scored(summary)
    lines = []
    for row in summary["rows"]:
        cells = []
        for c in columns:
            score, change = row["scores"][c["key"]], row["change"].get(c["key"])
            value = _value(score, c)
            counted = score["count"] + score["infinite"]
            coverage = f"{counted}/{score['cases']}" if 0 < counted < score["cases"] else ""
            difference = change["mean"] if change else None
            cells.append(
                Cell(value, row["name"] in best[c["key"]], _signed(difference, c), _gain(difference, c), coverage)
            )
        lines.append(Line(row["group"], row["title"], tuple(cells)))
    return lines


def published_lines(summary: Summary) -> list[Line]:
    """Rows that were published; the best of each of their tables is marked, changes are theirs."""
    columns, rows = shown_columns(summary), summary["published"]["rows"]
    lines = []
    for row in rows:
        peers = [r for r in rows if r["table"] == row["table"]]
        base = next((r for r in peers if r["name"] == row["backbone"]), None)
        cells = []
        for c in columns:
            value = row["values"].get(c["key"])
            if value is None:
                cells.append(Cell("–"))
                continue
            all_values = [r["values"][c["key"]] for r in peers if c["key"] in r["values"]]
            top = max(all_values) if c["better"] == "higher" else min(all_values)
            change = value - base["values"][c["key"]] if base else None
            cells.append(Cell(number(value, c), value == top, _signed(change, c), _gain(change, c)))
        lines.append(Line(f"Published, table {row['table']}: {row['group']}", row["title"], tuple(cells)))
    return lines


def shown_groups(summary: Summary) -> dict[str, list[dict]]:
    """Columns of the tables by heading: all of the paper's, and of the others those that a row has a number for."""
    groups = {
        title: [c for c in part if title != OTHERS or _is_measured(summary, c)]
        for title, part in summary["groups"].items()
    }
    return {title: part for title, part in groups.items() if part}


def shown_columns(summary: Summary) -> list[dict]:
    return [c for part in shown_groups(summary).values() for c in part]


def _is_measured(summary: Summary, column: dict) -> bool:
    scores = (row["scores"][column["key"]] for row in summary["rows"])
    return any(score["count"] or score["infinite"] for score in scores)


def _value(score: dict, column: dict) -> str:
    if score["mean"] is None:
        return "∞" if score["infinite"] else "–"
    return number(score["mean"], column)


def _best_scored(summary: Summary) -> dict[str, set[str]]:
    """Names of the best rows by column: as printed, so that equal figures are both marked."""
    best = {}
    for c in shown_columns(summary):
        if c["better"] == "none":
            best[c["key"]] = set()
            continue
        scores = {r["name"]: r["scores"][c["key"]] for r in summary["rows"] if not r["bound"]}
        whole = {n: round(s["mean"], c["digits"]) for n, s in scores.items() if s["count"] == s["cases"] and s["cases"]}
        top = (max if c["better"] == "higher" else min)(whole.values(), default=None)
        best[c["key"]] = {n for n, v in whole.items() if v == top and len(whole) > 1}
    return best


def _signed(difference: float | None, column: dict) -> str:
    return "" if difference is None else f"{difference:+.{column['digits']}f}"


def _gain(difference: float | None, column: dict) -> bool | None:
    if difference is None or column["better"] == "none" or round(difference, column["digits"]) == 0:
        return None
    return (difference > 0) == (column["better"] == "higher")
