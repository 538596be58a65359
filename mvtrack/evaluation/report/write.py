"""All files of a report, each written whole; equal content leaves a file as it is."""

import csv
import io
import json
from collections.abc import Iterable
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined

from mvtrack.evaluation.report.summary import summarise
from mvtrack.evaluation.report.tex import latex
from mvtrack.evaluation.report.view import (
    LEGEND,
    NOTHING_LACKS,
    Cell,
    all_columns,
    interval_rows,
    published_lines,
    published_note,
    reason_rows,
    report_title,
    scored_lines,
    shown_groups,
)
from mvtrack.evaluation.runner.plan import Plan
from mvtrack.evaluation.runner.records import write_text
from mvtrack.evaluation.runner.videos import REFERENCE, TARGET, preview_file
from mvtrack.evaluation.tables import markdown_table

_ARROWS = {"higher": "\N{NO-BREAK SPACE}↑", "lower": "\N{NO-BREAK SPACE}↓", "none": ""}
_MOST_REASONS = 40


def write_report(plan: Plan) -> tuple[dict, list[Path]]:
    """Summarise the results folder and write summary.json, table.md, table.tex, table.csv, scores.csv, index.html."""
    summary = summarise(plan)
    texts = {
        "summary.json": json.dumps(summary, indent=1, ensure_ascii=False, allow_nan=False) + "\n",
        "table.md": markdown(summary),
        "table.tex": latex(summary),
        "table.csv": summary_csv(summary),
        "scores.csv": scores_csv(summary),
        "index.html": page(plan, summary),
    }
    for name, text in texts.items():
        write_text(plan.folder / name, text)
    return summary, [plan.folder / name for name in texts]


def markdown(summary: dict) -> str:
    """The paper's table, intervals, what is missing and why, and the footnotes."""
    intervals, reasons = interval_rows(summary), reason_rows(summary)
    more = len(reasons) - 1 - _MOST_REASONS
    parts = [
        f"# {report_title(summary)}",
        table_of(summary),
        f"{LEGEND} The rest is listed below.",
        published_note(summary),
        "## Means with 95 % bootstrap intervals over cases, and how many count",
        markdown_table(intervals[0], intervals[1:]) if intervals else "No numbers.",
        "## What is not in the means",
        markdown_table(reasons[0], reasons[1 : _MOST_REASONS + 1]) if reasons else NOTHING_LACKS,
        f"{more} more rows like these: see scores.csv." if more > 0 else "",
        "## Protocol",
        "\n".join(f"{i}. {note}" for i, note in enumerate(summary["footnotes"], 1)),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def table_of(summary: dict) -> str:
    """The table alone, in Markdown: our rows, then the published ones."""
    head = [""]
    for title, part in shown_groups(summary).items():
        names = [f"{c['title']}{_ARROWS[c['better']]}".replace("\N{NO-BREAK SPACE}", " ") for c in part]
        head += [f"{title}<br>{names[0]}", *names[1:]]
    rows, group = [], None
    for line in scored_lines(summary) + published_lines(summary):
        if line.group != group:
            rows.append([f"*{line.group}*", *[""] * len(line.cells)])
        group = line.group
        rows.append([line.title, *map(_markdown_cell, line.cells)])
    return markdown_table(head, rows)


def _markdown_cell(cell: Cell) -> str:
    value = f"**{cell.value}**" if cell.is_best else cell.value
    return value + (f" ({cell.change})" if cell.change else "") + (f" [{cell.coverage}]" if cell.coverage else "")


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


def _csv(rows: Iterable[list]) -> str:
    out = io.StringIO()
    csv.writer(out, lineterminator="\n").writerows(rows)
    return out.getvalue()


def page(plan: Plan, summary: dict) -> str:
    """A page to look at, with all videos of a case side by side; it names videos in page/ beside it."""
    methods = {row["name"]: row["title"] for row in summary["rows"]}
    views = {REFERENCE: "reference", TARGET: "true target"} | methods
    cases = []
    for key in plan.benchmark.case_keys():
        videos = []
        for who, title in views.items():
            path, values = preview_file(plan, who, key), summary["cases"].get(who, {}).get(key, {})
            if path.is_file() or values:
                src = str(path.relative_to(plan.folder)) if path.is_file() else None
                videos.append({"who": who, "title": title, "src": src, "values": values})
        cases.append({"key": key, "videos": videos})
    columns = [{k: c[k] for k in ("key", "title", "better", "digits")} for c in all_columns(summary)]
    data = {"columns": columns, "methods": [{"name": n, "title": t} for n, t in methods.items()], "cases": cases}
    environment = Environment(
        loader=PackageLoader("mvtrack.evaluation.report"), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    return environment.get_template("index.html").render(
        title=report_title(summary),
        groups=shown_groups(summary),
        lines=scored_lines(summary) + published_lines(summary),
        arrows=_ARROWS,
        legend=LEGEND,
        source=published_note(summary),
        intervals=interval_rows(summary),
        reasons=reason_rows(summary),
        nothing_lacks=NOTHING_LACKS,
        notes=summary["footnotes"],
        data=data,
    )
