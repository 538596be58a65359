"""A page to look at: all videos of a case side by side, played together, with their scores. Opens from the disk."""

import html
import json

from mvtrack.evaluation.report.cells import published_lines, scored_lines, shown_columns, shown_groups
from mvtrack.evaluation.report.details import (
    LEGEND,
    NOTHING_LACKS,
    all_columns,
    interval_rows,
    published_note,
    reason_rows,
)
from mvtrack.evaluation.report.page_template import TEMPLATE
from mvtrack.evaluation.runner.plan import Plan
from mvtrack.evaluation.runner.previews import REFERENCE, TARGET, preview_file

_ARROWS = {"higher": "&nbsp;↑", "lower": "&nbsp;↓", "none": ""}


def page(plan: Plan, summary: dict) -> str:
    """The whole page as text; it names videos in page/ beside it."""
    columns = all_columns(summary)
    methods = [(row["name"], row["title"]) for row in summary["rows"]]
    views = [(REFERENCE, "reference"), (TARGET, "true target"), *methods]
    cases = []
    for key in plan.benchmark.case_keys():
        shown = []
        for who, title in views:
            path = preview_file(plan, who, key)
            values = summary["cases"].get(who, {}).get(key, {})
            if path.is_file():
                shown.append({"who": who, "title": title, "src": str(path.relative_to(plan.folder)), "values": values})
            elif values:
                shown.append({"who": who, "title": title, "src": None, "values": values})
        cases.append({"key": key, "videos": shown})
    data = {
        "columns": [{k: c[k] for k in ("key", "title", "better", "digits")} for c in columns],
        "methods": [{"name": name, "title": title} for name, title in methods],
        "cases": cases,
    }
    title = f"{summary['benchmark']['title']}, {summary['benchmark']['cases']} cases"
    parts = {
        "%TITLE%": html.escape(title),
        "%TABLE%": _table(summary),
        "%LEGEND%": html.escape(LEGEND),
        "%SOURCE%": html.escape(published_note(summary)),
        "%INTERVALS%": _plain_table(interval_rows(summary), "text") or "No numbers.",
        "%REASONS%": _plain_table(reason_rows(summary), "text why") or NOTHING_LACKS,
        "%NOTES%": "".join(f"<li>{html.escape(note)}</li>" for note in summary["footnotes"]),
        "%DATA%": json.dumps(data, allow_nan=False).replace("</", "<\\/"),
    }
    text = TEMPLATE
    for name, value in parts.items():
        text = text.replace(name, value)
    return text


def _table(summary: dict) -> str:
    columns = shown_columns(summary)
    groups = shown_groups(summary)
    heads = "".join(f'<th colspan="{len(part)}">{html.escape(title)}</th>' for title, part in groups.items())
    names = "".join(f"<th>{html.escape(c['title'])}{_ARROWS[c['better']]}</th>" for c in columns)
    rows, group = [], None
    for line in scored_lines(summary) + published_lines(summary):
        if line.group != group:
            rows.append(f'<tr class="group"><td colspan="{len(columns) + 1}">{html.escape(line.group)}</td></tr>')
        group = line.group
        cells = []
        for cell in line.cells:
            value = f"<b>{cell.value}</b>" if cell.is_best else cell.value
            if cell.change:
                sign = {True: "gain", False: "loss", None: "same"}[cell.is_gain]
                value += f' <small class="{sign}">({cell.change})</small>'
            cells.append(f"<td>{value}{f' <small>[{cell.coverage}]</small>' if cell.coverage else ''}</td>")
        rows.append(f"<tr><th>{html.escape(line.title)}</th>{''.join(cells)}</tr>")
    top = f"<thead><tr><th></th>{heads}</tr><tr><th></th>{names}</tr></thead>"
    return f"<table>{top}<tbody>{''.join(rows)}</tbody></table>"


def _plain_table(rows: list[list[str]], kind: str) -> str:
    """Rows of text as a table of a style, the first as its heading; empty without rows."""
    if not rows:
        return ""
    lines = ["".join(f"<td>{html.escape(cell)}</td>" for cell in row) for row in rows]
    head = lines[0].replace("td>", "th>")
    body = "".join(f"<tr>{line}</tr>" for line in lines[1:])
    table = f'<table class="{kind}"><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>'
    return f'<div class="scroll">{table}</div>'
