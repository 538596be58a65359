"""What a report shows, before Markdown, LaTeX or HTML: cells, means with intervals, and why numbers are not there."""

from dataclasses import dataclass

from mvtrack.evaluation.report.columns import OTHERS
from mvtrack.evaluation.tables import interval_text

LEGEND = (
    "Bold: the best row that does not know the truth and has all cases. (+): change against the backbone. [6/8]: mean "
    "of 6 of 8 cases."
)
NOTHING_LACKS = "Nothing: every case of every method has every score."
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


def report_title(summary: Summary) -> str:
    return f"{summary['benchmark']['title']}, {summary['benchmark']['cases']} cases"


def published_note(summary: Summary) -> str:
    """Where the published rows come from; empty where there are none."""
    if not summary["published"]["rows"]:
        return ""
    return (
        f"Published rows: {summary['published']['source']}. They were measured by others, with other cases and other "
        "estimators: compare down a column only within one protocol."
    )


def scored_lines(summary: Summary) -> list[Line]:
    """Rows of what was measured here. The best is marked among rows that are no bounds, and only where all count."""
    columns = shown_columns(summary)
    best = {c["key"]: _best_rows(summary, c) for c in columns}
    return [
        Line(row["group"], row["title"], tuple(_scored_cell(row, c, row["name"] in best[c["key"]]) for c in columns))
        for row in summary["rows"]
    ]


def _scored_cell(row: dict, column: dict, is_best: bool) -> Cell:
    score, change = row["scores"][column["key"]], row["change"].get(column["key"])
    value = number(score["mean"], column) if score["mean"] is not None else "∞" if score["infinite"] else "–"
    counted = score["count"] + score["infinite"]
    coverage = f"{counted}/{score['cases']}" if 0 < counted < score["cases"] else ""
    return Cell(value, is_best, *_change(change["mean"] if change else None, column), coverage)


def published_lines(summary: Summary) -> list[Line]:
    """Rows that were published; the best of each of their tables is marked, changes are theirs."""
    rows, lines = summary["published"]["rows"], []
    for row in rows:
        peers = [r for r in rows if r["table"] == row["table"]]
        base = next((r for r in peers if r["name"] == row["backbone"]), None)
        cells = tuple(_published_cell(row, c, peers, base) for c in shown_columns(summary))
        lines.append(Line(f"Published, table {row['table']}: {row['group']}", row["title"], cells))
    return lines


def _published_cell(row: dict, column: dict, peers: list[dict], base: dict | None) -> Cell:
    key, value = column["key"], row["values"].get(column["key"])
    if value is None:
        return Cell("–")
    top = (max if column["better"] == "higher" else min)(r["values"][key] for r in peers if key in r["values"])
    return Cell(number(value, column), value == top, *_change(value - base["values"][key] if base else None, column))


def shown_groups(summary: Summary) -> dict[str, list[dict]]:
    """Columns of the tables by heading: all of the paper's, and of the others those that a row has a number for."""
    groups = {
        title: [c for c in part if title != OTHERS or _is_measured(summary, c)]
        for title, part in summary["groups"].items()
    }
    return {title: part for title, part in groups.items() if part}


def shown_columns(summary: Summary) -> list[dict]:
    return [c for part in shown_groups(summary).values() for c in part]


def all_columns(summary: Summary) -> list[dict]:
    return [c for part in summary["groups"].values() for c in part]


def interval_rows(summary: Summary) -> list[list[str]]:
    """A heading and one row a method, of columns that somebody has a number for; nothing where nobody has any."""
    shown = [c for c in all_columns(summary) if _is_measured(summary, c)]
    rows = [[row["title"], *(_interval(row["scores"][c["key"]], c) for c in shown)] for row in summary["rows"]]
    return [["", *(c["title"] for c in shown)], *rows] if shown else []


def reason_rows(summary: Summary) -> list[list[str]]:
    """Why cells are empty or means are of fewer cases, below a heading: equal reasons of several columns and methods
    are one row, with the number of videos that it is about. Nothing where every case has every score."""
    titles = {c["key"]: c["title"] for c in all_columns(summary)}
    columns_of: dict[tuple[str, str, int], list[str]] = {}
    for row in summary["rows"]:
        for key, score in row["scores"].items():
            for reason, count in score["reasons"].items():
                columns_of.setdefault((row["title"], reason, count), []).append(titles[key])
    merged: dict[tuple[tuple[str, ...], str], dict[str, int]] = {}
    for (method, reason, count), columns in columns_of.items():
        merged.setdefault((tuple(columns), reason), {})[method] = count
    rows = []
    for (columns, reason), counts in merged.items():
        who = "all" if len(counts) == len(summary["rows"]) and len(counts) > 1 else ", ".join(counts)
        what = "all" if len(columns) == len(titles) and len(columns) > 1 else ", ".join(columns)
        rows.append([who, what, str(sum(counts.values())), reason])
    return [["Methods", "Columns", "Videos", "Why"], *rows] if rows else []


def number(value: float, column: dict) -> str:
    """As tables print it."""
    return f"{value:.{column['digits']}f}"


def _is_measured(summary: Summary, column: dict) -> bool:
    scores = (row["scores"][column["key"]] for row in summary["rows"])
    return any(score["count"] or score["infinite"] for score in scores)


def _interval(score: dict, column: dict) -> str:
    more = f", {score['infinite']} infinite" if score["infinite"] else ""
    if score["mean"] is None:
        return f"–{more}"
    return f"{interval_text(score, column['digits'])[:-1]}; n={score['count']}{more})"


def _best_rows(summary: Summary, column: dict) -> set[str]:
    """Names of the best rows of a column: as printed, so that equal figures are both marked."""
    if column["better"] == "none":
        return set()
    scores = {r["name"]: r["scores"][column["key"]] for r in summary["rows"] if not r["bound"]}
    whole = {
        n: round(s["mean"], column["digits"]) for n, s in scores.items() if s["count"] == s["cases"] and s["cases"]
    }
    top = (max if column["better"] == "higher" else min)(whole.values(), default=None)
    return {n for n, v in whole.items() if v == top and len(whole) > 1}


def _change(difference: float | None, column: dict) -> tuple[str, bool | None]:
    """A difference in words, and whether it is a gain."""
    if difference is None:
        return "", None
    text = f"{difference:+.{column['digits']}f}"
    is_none = column["better"] == "none" or round(difference, column["digits"]) == 0
    return text, None if is_none else (difference > 0) == (column["better"] == "higher")
