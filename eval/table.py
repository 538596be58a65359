"""`make table`: the shipped models and all baselines on rendered miniatures of DAVIS and iPhone, with the whole report.

The miniatures are rendered once, in the benchmarks' own layouts, and every step goes on where it was stopped.
"""

import argparse
import json
import shutil
import sys
import time
from pathlib import Path

from mvtrack.config.errors import run_command
from mvtrack.evaluation.benchmarks.davis import Davis
from mvtrack.evaluation.benchmarks.davis_list import read_list
from mvtrack.evaluation.benchmarks.davis_miniature import LIST_FILE, write_davis_miniature
from mvtrack.evaluation.benchmarks.iphone import IPhone
from mvtrack.evaluation.benchmarks.iphone_miniature import write_iphone_miniature
from mvtrack.evaluation.command import add_run_arguments, run_benchmark
from mvtrack.evaluation.interface import Method
from mvtrack.evaluation.row_options import methods_of, model_row
from mvtrack.inference.pipeline import shipped_model

_FRAMES = 17


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_run_arguments(parser, "outputs/table")
    parser.set_defaults(baselines="all")
    options = parser.parse_args()
    return run_command(lambda: _run(options), "table", options.debug)


def _run(options: argparse.Namespace) -> None:
    began, out = time.monotonic(), options.out
    davis, iphone = _rendered(out / "data/davis", _davis), _rendered(out / "data/iphone", _iphone)
    cases = read_list(davis / LIST_FILE)
    sequences = tuple(sorted(path.name for path in iphone.iterdir() if path.is_dir()))
    methods, summaries = _methods(options), {}
    for benchmark in (Davis(davis, cases, (64, 112), _FRAMES), IPhone(iphone, sequences, (64, 64), _FRAMES)):
        options.out = out / benchmark.name
        summaries[benchmark.name] = run_benchmark(benchmark, methods, options)
    figures = {name: _figures(summary) for name, summary in summaries.items() if summary}
    sys.stdout.write(json.dumps({"figures": figures, "seconds": round(time.monotonic() - began, 1)}) + "\n")


def _methods(options: argparse.Namespace) -> tuple[Method, ...]:
    """The rows that are asked for; the two models that come with the package where none but baselines is."""
    if options.model or options.videos:
        return methods_of(options)
    options.model = shipped_model()
    options.name, options.title = options.name or "tiny", options.title or "mvtrack tiny (shipped)"
    tiny, *others = methods_of(options)
    options.other_size = True  # the one that follows points was trained at 64x64 alone
    follower = model_row(options, "tiny_tracking", "mvtrack tiny, follows points (shipped)", shipped_model(True))
    return tiny, follower, *others


def _davis(root: Path) -> None:
    write_davis_miniature(root)


def _iphone(root: Path) -> None:
    write_iphone_miniature(root)


def _rendered(root: Path, write) -> Path:
    """A miniature, rendered beside its place and renamed, so that one that is there is whole."""
    if not root.is_dir():
        aside = root.with_name(f".{root.name}")
        if aside.exists():
            shutil.rmtree(aside)
        sys.stderr.write(f"rendering {root}\n")
        write(aside)
        aside.rename(root)
    return root


def _figures(summary: dict) -> dict:
    """PSNR where both views see, by method: the closing line's figures."""
    return {row["name"]: row["scores"]["psnr_covisible"]["mean"] for row in summary["rows"]}


if __name__ == "__main__":
    sys.exit(main())
