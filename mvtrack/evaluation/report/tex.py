"""A summary as LaTeX, notes below the table; what LaTeX would take for commands or cannot print is written out."""

from mvtrack.evaluation.report.columns import OTHERS
from mvtrack.evaluation.report.view import (
    LEGEND,
    Cell,
    Line,
    published_lines,
    published_note,
    report_title,
    scored_lines,
    shown_groups,
)

_ARROWS = {"higher": r" $\uparrow$", "lower": r" $\downarrow$", "none": ""}
_PLAIN = {letter: f"\\{letter}" for letter in "&%_#${}"}
_PLAIN |= {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
_PLAIN |= {"<": "$<$", ">": "$>$", "|": "$|$"}  # other letters in LaTeX's first font encoding
_PLAIN |= {"[": "{[}"}  # else the argument of a \\ before it
_PLAIN |= {"°": r"$^\circ$", "×": r"$\times$", "±": r"$\pm$", "≥": r"$\geq$", "≤": r"$\leq$", "∞": r"$\infty$"}
_PLAIN |= {"δ": r"$\delta$", "σ": r"$\sigma$", "→": r"$\rightarrow$", "↑": r"$\uparrow$", "↓": r"$\downarrow$"}
_PLAIN |= {"−": "$-$", "–": "--", "—": "---", "…": r"\dots{}"}
_HEAD_LETTERS = 13  # of a line in a column's heading
_GAP = r"\par\medskip"
_FIT = r"\resizebox{\ifdim\width>\linewidth\linewidth\else\width\fi}{!}{%"


def latex(summary: dict) -> str:
    """To be put between \\begin{table} and \\end{table}: the paper's columns, below them ours alone, then the notes."""
    groups, scored = shown_groups(summary), scored_lines(summary)
    papers = {title: part for title, part in groups.items() if title != OTHERS}
    width, parts = sum(map(len, papers.values())), []
    if papers:
        lines = [(line, line.cells[:width]) for line in scored + published_lines(summary)]
        parts.append(_tabular(papers, lines))
    if OTHERS in groups:
        parts.append(_tabular({OTHERS: groups[OTHERS]}, [(line, line.cells[width:]) for line in scored]))
    top = [
        f"% {report_title(summary)}. Needs booktabs, graphicx, xcolor.",
        "% Longer than a page: \\input it without a float, so that the notes run on.",
    ]
    return "\n".join([*top, f"\n{_GAP}\n".join(parts), *_notes(summary)]) + "\n"


def _tabular(groups: dict[str, list[dict]], lines: list[tuple[Line, tuple[Cell, ...]]]) -> str:
    """Columns under the headings of their groups, scaled down to the line where they are wider."""
    columns = [column for part in groups.values() for column in part]
    spans, rules, at = [], [], 2
    for title, part in groups.items():
        spans.append(rf"\multicolumn{{{len(part)}}}{{c}}{{{tex(title)}}}")
        rules.append(rf"\cmidrule(lr){{{at}-{at + len(part) - 1}}}")
        at += len(part)
    body, group = [], None
    for line, cells in lines:
        if line.group != group:
            body.append(rf"\midrule \multicolumn{{{len(columns) + 1}}}{{l}}{{\emph{{{tex(line.group)}}}}} \\")
        group = line.group
        body.append(" & ".join([tex(line.title), *map(_cell, cells)]) + r" \\")
    rows = [
        _FIT,
        rf"\begin{{tabular}}{{l{'c' * len(columns)}}}",
        r"\toprule",
        " & ".join(["", *spans]) + r" \\",
        " ".join(rules),
        " & ".join(["Method", *map(_head, columns)]) + r" \\",
        *body,
        r"\bottomrule",
        r"\end{tabular}}",
    ]
    return "\n".join(rows)


def _head(column: dict) -> str:
    """A title in short lines, one below the other."""
    lines: list[str] = []
    for word in column["title"].replace("[", " [").replace(",", ", ").split():
        if lines and len(lines[-1]) + len(word) < _HEAD_LETTERS:
            lines[-1] += f" {word}"
        else:
            lines.append(word)
    stacked = r" \\ ".join(map(tex, lines)) + _ARROWS[column["better"]]
    return rf"\shortstack{{{stacked}}}"


def _notes(summary: dict) -> list[str]:
    """A paragraph in small print: of what, how to read it, where published rows are from, the protocol's choices."""
    numbered = [f"({i}) {note}" for i, note in enumerate(summary["footnotes"], 1)]
    notes = [note for note in (f"{report_title(summary)}.", LEGEND, published_note(summary), *numbered) if note]
    return [r"\par\smallskip", r"{\scriptsize\raggedright", *map(tex, notes), r"\par}"]


def _cell(cell: Cell) -> str:
    value = rf"\textbf{{{tex(cell.value)}}}" if cell.is_best else tex(cell.value)
    if cell.change:
        colour = {True: "green!50!black", False: "red", None: "gray"}[cell.is_gain]
        value += rf" {{\scriptsize\textcolor{{{colour}}}{{({cell.change})}}}}"
    return value + (rf" {{\scriptsize[{cell.coverage}]}}" if cell.coverage else "")


def tex(text: str) -> str:
    """Text that LaTeX prints as it is; letters of any alphabet are left to its engine."""
    return "".join(_PLAIN.get(letter, letter) for letter in text)
