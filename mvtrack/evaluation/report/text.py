"""A summary as Markdown and CSV."""

import csv
import io

from mvtrack.evaluation.report.cells import Cell, published_lines, scored_lines, shown_columns, shown_groups
from mvtrack.evaluation.report.details import LEGEND, NOTHING_LACKS, interval_rows, published_note, reason_rows

_ARROWS = {"higher": " ↑", "lower": " ↓", "none": ""}
_MOST_REASONS = 40


def markdown(summary: dict) -> str:
    """The paper's table, intervals, what is missing and why, and the footnotes."""
    bench, reasons = summary["benchmark"], reason_rows(summary)
    more = len(reasons) - 1 - _MOST_REASONS
    parts = [
        f"# {bench['title']}, {bench['cases']} cases",
        table_of(summary),
        f"{LEGEND} The rest is listed below.",
        published_note(summary),
        "## Means with 95 % bootstrap intervals over cases, and how many count",
        _piped(interval_rows(summary)) or "No numbers.",
        "## What is not in the means",
        _piped(reasons[: _MOST_REASONS + 1]) or NOTHING_LACKS,
        f"{more} more rows like these: see scores.csv." if more > 0 else "",
        "## Protocol",
        "\n".join(f"{i}. {note}" for i, note in enumerate(summary["footnotes"], 1)),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def table_of(summary: dict) -> str:
    """The table alone, in Markdown: our rows, then the published ones."""
    columns, lines = shown_columns(summary), scored_lines(summary) + published_lines(summary)
    heads = [f"{c['title']}{_ARROWS[c['better']]}" for c in columns]
    tops = [title if i == 0 else "" for title, part in shown_groups(summary).items() for i in range(len(part))]
    rows = [["", *(f"{t}<br>{h}" if t else h for t, h in zip(tops, heads, strict=True))]]
    group = None
    for line in lines:
        if line.group != group:
            rows.append([f"*{line.group}*", *[""] * len(columns)])
        group = line.group
        rows.append([line.title, *map(_markdown_cell, line.cells)])
    return _piped(rows)


def _markdown_cell(cell: Cell) -> str:
    value = f"**{cell.value}**" if cell.is_best else cell.value
    return value + (f" ({cell.change})" if cell.change else "") + (f" [{cell.coverage}]" if cell.coverage else "")


def _piped(rows: list[list[str]]) -> str:
    """A table in Markdown, its first row the heading; empty without rows."""
    if not rows:
        return ""
    head, *body = ["| " + " | ".join(cell.replace("|", "/") for cell in row) + " |" for row in rows]
    return "\n".join([head, "|---|" + "---|" * (len(rows[0]) - 1), *body])


def summary_csv(summary: dict) -> str:
    """One line a method and column: mean, interval, counts."""
    names = ["mean", "low", "high", "count", "cases", "infinite", "skipped", "failed"]
    rows = [["method", "title", "column", *names, "change", "backbone"]]
    for row in summary["rows"]:
        for key, score in row["scores"].items():
            change = row["change"].get(key, {}).get("mean")
            rows.append([row["name"], row["title"], key, *(score[n] for n in names), change, row["backbone"]])
    return _csv(rows)


def scores_csv(summary: dict) -> str:
    """One line a method, case and column: the value, or why there is none."""
    rows = [["method", "case", "column", "value", "declined"]]
    for method, cases in summary["cases"].items():
        for case, values in cases.items():
            for column, value in values.items():
                declined = isinstance(value, str) and ": " in value
                rows.append([method, case, column, "" if declined else value, value if declined else ""])
    return _csv(rows)


def _csv(rows: list[list]) -> str:
    out = io.StringIO()
    csv.writer(out, lineterminator="\n").writerows(["" if v is None else v for v in row] for row in rows)
    return out.getvalue()
