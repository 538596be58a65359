"""A summary as Markdown, LaTeX and CSV."""

import csv
import io

from mvtrack.evaluation.report.cells import (
    Cell,
    number,
    published_lines,
    scored_lines,
    shown_columns,
    shown_groups,
)

_ARROWS = {"higher": " ↑", "lower": " ↓", "none": ""}
_MOST_REASONS = 40


def markdown(summary: dict) -> str:
    """The paper's table, intervals, what is missing and why, and the footnotes."""
    bench, columns = summary["benchmark"], _columns(summary)
    parts = [
        f"# {bench['title']}, {bench['cases']} cases",
        table_of(summary),
        "Bold: the best row that does not know the truth and has all cases. (+): change against the backbone. "
        "[6/8]: mean of 6 of 8 cases; the rest is listed below.\n\n"
        f"Published rows: {summary['published']['source']}. They were measured by others, with other cases and other "
        "estimators: compare down a column only within one protocol."
        if summary["published"]["rows"]
        else "",
        "## Means with 95 % bootstrap intervals over cases, and how many count",
        _intervals(summary, columns),
        "## What is not in the means",
        _reasons(summary),
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


def _intervals(summary: dict, columns: list[dict]) -> str:
    """One row a method, only columns that somebody has a number for."""
    shown = [c for c in columns if any(_has_number(r["scores"][c["key"]]) for r in summary["rows"])]
    if not shown:
        return "No numbers."
    rows = [["", *(c["title"] for c in shown)]]
    for row in summary["rows"]:
        rows.append([row["title"], *(_interval(row["scores"][c["key"]], c) for c in shown)])
    return _piped(rows)


def _has_number(score: dict) -> bool:
    return bool(score["count"] or score["infinite"])


def _interval(score: dict, column: dict) -> str:
    more = f", {score['infinite']} infinite" if score["infinite"] else ""
    if score["mean"] is None:
        return f"–{more or ''}"
    low, high = number(score["low"], column), number(score["high"], column)
    return f"{number(score['mean'], column)} ({low} to {high}; n={score['count']}{more})"


def _reasons(summary: dict) -> str:
    """Why cells are empty or means are of fewer cases: equal reasons of several columns and methods are one row, with
    the number of videos that it is about."""
    titles = {c["key"]: c["title"] for c in _columns(summary)}
    found: dict[tuple[str, str, int], list[str]] = {}
    for row in summary["rows"]:
        for key, score in row["scores"].items():
            for reason, count in score["reasons"].items():
                found.setdefault((row["title"], reason, count), []).append(titles[key])
    merged: dict[tuple[tuple[str, ...], str], dict[str, int]] = {}
    for (method, reason, count), columns in found.items():
        merged.setdefault((tuple(columns), reason), {})[method] = count
    if not merged:
        return "Nothing: every case of every method has every score."
    rows = [["Methods", "Columns", "Videos", "Why"]]
    for (columns, reason), counts in list(merged.items())[:_MOST_REASONS]:
        who = "all" if len(counts) == len(summary["rows"]) and len(counts) > 1 else ", ".join(counts)
        what = "all" if len(columns) == len(titles) and len(columns) > 1 else ", ".join(columns)
        rows.append([who, what, str(sum(counts.values())), reason.replace("|", "/")])
    more = len(merged) - _MOST_REASONS
    return _piped(rows) + (f"\n\n{more} more rows like these: see scores.csv." if more > 0 else "")


def _piped(rows: list[list[str]]) -> str:
    head, *body = ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join([head, "|---|" + "---|" * (len(rows[0]) - 1), *body])


def latex(summary: dict) -> str:
    """The same table for booktabs and xcolor, footnotes as comments above it."""
    groups, columns = shown_groups(summary), shown_columns(summary)
    spans, rules, at = [], [], 2
    for title, part in groups.items():
        spans.append(rf"\multicolumn{{{len(part)}}}{{c}}{{{_tex(title)}}}")
        rules.append(rf"\cmidrule(lr){{{at}-{at + len(part) - 1}}}")
        at += len(part)
    arrows = {"higher": r" $\uparrow$", "lower": r" $\downarrow$", "none": ""}
    heads = [_tex(c["title"]) + arrows[c["better"]] for c in columns]
    body, group = [], None
    for line in scored_lines(summary) + published_lines(summary):
        if line.group != group:
            body.append(rf"\midrule \multicolumn{{{len(columns) + 1}}}{{l}}{{\emph{{{_tex(line.group)}}}}} \\")
        group = line.group
        body.append(" & ".join([_tex(line.title), *map(_latex_cell, line.cells)]) + r" \\")
    lines = [
        f"% {summary['benchmark']['title']}, {summary['benchmark']['cases']} cases. Needs booktabs and xcolor.",
        *(f"% {note}" for note in summary["footnotes"]),
        f"% Published rows: {summary['published']['source']}",
        rf"\begin{{tabular}}{{l{'c' * len(columns)}}}",
        r"\toprule",
        " & ".join(["", *spans]) + r" \\",
        " ".join(rules),
        " & ".join(["Method", *heads]) + r" \\",
        *body,
        r"\bottomrule",
        r"\end{tabular}",
    ]
    return "\n".join(lines) + "\n"


def _latex_cell(cell: Cell) -> str:
    value = {"–": "--", "∞": r"$\infty$"}.get(cell.value, cell.value)
    value = rf"\textbf{{{value}}}" if cell.is_best else value
    if cell.change:
        colour = {True: "green!50!black", False: "red", None: "gray"}[cell.is_gain]
        value += rf" {{\scriptsize\textcolor{{{colour}}}{{({cell.change})}}}}"
    return value + (rf" {{\scriptsize[{cell.coverage}]}}" if cell.coverage else "")


def _tex(text: str) -> str:
    plain = {letter: f"\\{letter}" for letter in "&%_#$"}
    plain |= {"°": r"$^\circ$", "×": r"$\times$", "δ": r"$\delta$"}
    return "".join(plain.get(letter, letter) for letter in text)


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


def _columns(summary: dict) -> list[dict]:
    return [c for part in summary["groups"].values() for c in part]
