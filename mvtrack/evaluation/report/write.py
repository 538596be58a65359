"""All files of a report, each written whole; equal content leaves a file as it is."""

import json
from pathlib import Path

from mvtrack.evaluation.report.page import page
from mvtrack.evaluation.report.summary import summarise
from mvtrack.evaluation.report.tex import latex
from mvtrack.evaluation.report.text import markdown, scores_csv, summary_csv
from mvtrack.evaluation.runner.plan import Plan
from mvtrack.evaluation.runner.records import write_text


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
