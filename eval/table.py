"""`make table`: the shipped models and all baselines on rendered miniatures of DAVIS and iPhone, with the whole report.

The miniatures are rendered once, in the benchmarks' own layouts, and every step goes on where it was stopped.
"""

import json
import shutil
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from mvtrack.config.checked import config
from mvtrack.config.command_line import run, section
from mvtrack.evaluation.benchmarks.davis import Davis
from mvtrack.evaluation.benchmarks.davis_list import read_list
from mvtrack.evaluation.benchmarks.davis_miniature import LIST_FILE, write_davis_miniature
from mvtrack.evaluation.benchmarks.iphone import IPhone
from mvtrack.evaluation.benchmarks.iphone_miniature import write_iphone_miniature
from mvtrack.evaluation.benchmarks.pictures import mark_miniature
from mvtrack.evaluation.command import (
    RETIRED,
    BenchmarkCommand,
    RowOptions,
    RunOptions,
    methods_of,
    model_row,
    run_benchmark,
)
from mvtrack.evaluation.interface import Method
from mvtrack.evaluation.settings import EvaluationSettings
from mvtrack.inference.pipeline import shipped_model

_FRAMES = 17


@config(kw_only=True)
class TableCommand(BenchmarkCommand):
    """The shipped models, or another one, and all baselines on rendered miniatures of DAVIS and iPhone."""

    rows: RowOptions = section(RowOptions, "rows; without --model or --videos, the shipped models", baselines=("all",))
    run: RunOptions = section(RunOptions, "running", out=Path("outputs/table"))


def main() -> int:
    return run(TableCommand, _run, None, "table", retired=RETIRED)


def _run(options: TableCommand) -> None:
    began, out, settings = time.monotonic(), options.run.out, options.settings()
    davis = _rendered(out / "data/davis", write_davis_miniature)
    iphone = _rendered(out / "data/iphone", write_iphone_miniature)
    sequences = tuple(sorted(path.name for path in iphone.iterdir() if path.is_dir()))
    methods, summaries = _methods(options, settings), {}
    for benchmark in (
        Davis(davis, read_list(davis / LIST_FILE), (64, 112), _FRAMES),
        IPhone(iphone, sequences, (64, 64), _FRAMES),
    ):
        here = replace(options, run=replace(options.run, out=out / benchmark.name))
        summaries[benchmark.full_title] = run_benchmark(benchmark, here, settings, methods)
    figures = {name: _figures(summary) for name, summary in summaries.items() if summary}
    sys.stdout.write(json.dumps({"figures": figures, "seconds": round(time.monotonic() - began, 1)}) + "\n")


def _methods(options: TableCommand, settings: EvaluationSettings) -> tuple[Method, ...]:
    """The rows that are named; the two models that come with the package where none but baselines is."""
    rows, check_memory = options.rows, not options.run.ignore_memory
    if rows.model or rows.videos:
        return methods_of(rows, settings, check_memory)
    title = rows.title or "mvtrack tiny (shipped)"
    tiny = replace(rows, model=shipped_model(), name=rows.name or "tiny", title=title)
    follower = replace(
        tiny, model=shipped_model(True), name="tiny_tracking", title="mvtrack tiny, follows points (shipped)"
    )
    any_size = replace(settings, row=replace(settings.row, other_size=True))  # it was trained at 64x64 alone
    first, *others = methods_of(tiny, settings, check_memory)
    return first, model_row(follower, any_size, check_memory), *others


def _rendered(root: Path, write: Callable[[Path], object]) -> Path:
    """A miniature, rendered beside its place and renamed, so that one that is there is whole."""
    if not root.is_dir():
        aside = root.with_name(f".{root.name}")
        if aside.exists():
            shutil.rmtree(aside)
        sys.stderr.write(f"rendering {root}\n")
        write(aside)
        aside.rename(root)
    mark_miniature(root)
    return root


def _figures(summary: dict) -> dict:
    """PSNR where both views see, by method: the closing line's figures."""
    return {row["name"]: row["scores"]["psnr_covisible"]["mean"] for row in summary["rows"]}


if __name__ == "__main__":
    sys.exit(main())
