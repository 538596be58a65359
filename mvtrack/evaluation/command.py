"""What the commands of all benchmarks share: options, running, the report."""

import argparse
import os
import re
import sys
from pathlib import Path

import torch

from mvtrack.evaluation.interface import Benchmark, Method
from mvtrack.evaluation.measures.options import add_measure_arguments, measure_options
from mvtrack.evaluation.measures.registry import all_estimators, chosen_metrics
from mvtrack.evaluation.methods.existing_rows import FoundRows, found_rows
from mvtrack.evaluation.methods.model import ModelMethod
from mvtrack.evaluation.pose_options import add_pose_arguments, pose_estimator
from mvtrack.evaluation.report.summary import check_backbones
from mvtrack.evaluation.report.text import table_of
from mvtrack.evaluation.report.write import write_report
from mvtrack.evaluation.row_options import add_row_arguments, placement_of
from mvtrack.evaluation.runner.plan import Plan
from mvtrack.evaluation.runner.records import hash_of, read_record, write_record
from mvtrack.evaluation.runner.stages import STAGES, forget_failures, run_stages

_MOST_LINES = 20


def add_run_arguments(parser: argparse.ArgumentParser, out: str) -> None:
    """Options that mean the same for every benchmark."""
    add_row_arguments(parser)
    run = parser.add_argument_group("running")
    run.add_argument("--out", type=Path, default=Path(out), help="results folder; run again with it to go on")
    run.add_argument("--metrics", help="comma-separated; default: all")
    run.add_argument("--stages", default=",".join(STAGES), help="which of the stages to run; the report comes last")
    run.add_argument(
        "--workers", type=int,
        help="processes of one thread, with networks of their own; default: one where there is a GPU, else one a core",
    )  # fmt: skip
    run.add_argument("--shard", default="1/1", help="i/n: only every n-th case, from the i-th on; no report")
    run.add_argument("--retry-failed", action="store_true", help="try again what failed before")
    run.add_argument("--debug", action="store_true", help="end with a traceback where something unforeseen fails")
    add_measure_arguments(parser)
    add_pose_arguments(parser)


def case_size(text: str) -> tuple[int, int]:
    """A size option such as 480x832 (height x width)."""
    match = re.fullmatch(r"([1-9]\d{0,4})x([1-9]\d{0,4})", text)
    if not match:
        raise argparse.ArgumentTypeError(f"must look like 480x832 (height x width), got {text!r}")
    return int(match[1]), int(match[2])


def default_workers() -> int:
    """One process where there is a GPU, whose memory each would fill with networks of its own; else one a core."""
    return 1 if torch.cuda.is_available() else os.cpu_count() or 1


def run_benchmark(benchmark: Benchmark, methods: tuple[Method, ...], options: argparse.Namespace) -> dict | None:
    """Run the stages and write the report; returns its summary, None for a shard. No method: those that the folder
    holds."""
    found = FoundRows() if methods else found_rows(options.out, placement_of(options), not options.ignore_memory)
    plan = _plan(benchmark, methods or found.methods, found, options)
    shard, stages = _shard(options.shard), _stages(options.stages)
    workers = default_workers() if options.workers is None else options.workers
    check_backbones(plan)
    _check_folder(plan)
    if not options.replace:
        _check_rows(plan)
    for note in found.notes:
        sys.stderr.write(f"{note}\n")
    if options.retry_failed:
        forget_failures(plan, shard)
    troubles = run_stages(plan, stages, workers, shard)
    for line in troubles[:_MOST_LINES]:
        sys.stderr.write(f"failed: {line}\n")
    if len(troubles) > _MOST_LINES:
        sys.stderr.write(f"and {len(troubles) - _MOST_LINES} more\n")
    if shard != (1, 1):
        sys.stdout.write(f"shard {options.shard} done; when all are, run again without --shard for the report\n")
        return None
    summary, files = write_report(plan)
    sys.stdout.write(table_of(summary) + "\n\n" + "".join(f"{path}\n" for path in files))
    return summary


def _plan(benchmark: Benchmark, methods: tuple[Method, ...], found: FoundRows, options: argparse.Namespace) -> Plan:
    models = {m.name: m for m in methods if isinstance(m, ModelMethod)} | dict.fromkeys(found.lost_models)
    measuring = measure_options(options, models, benchmark.name)
    estimators = all_estimators(pose_estimator(options, measuring.pythons.get("da3"), benchmark.num_frames))
    metrics, others = chosen_metrics(options.metrics, measuring), tuple(found.others)
    return Plan(benchmark, methods, metrics, estimators, options.out, others, options.debug)


def _check_folder(plan: Plan) -> None:
    """One results folder is for one benchmark with one set of settings: means of two must not mix."""
    path = plan.folder / "benchmark.json"
    now = {"key": hash_of([plan.benchmark.name, plan.benchmark.settings, plan.benchmark.case_keys()])}
    before = read_record(path)
    if before and before["key"] != now["key"]:
        was = f"{before['name']} with {before['settings']} and {before['cases']} cases"
        raise ValueError(f"{plan.folder} holds results of {was}: choose another --out")
    if before is None:
        cases = len(plan.benchmark.case_keys())
        write_record(path, now | {"name": plan.benchmark.name, "settings": plan.benchmark.settings, "cases": cases})


def _check_rows(plan: Plan) -> None:
    for method in plan.methods:
        before = read_record(plan.method_file(method.name))
        if before is None:
            continue
        was, now = before["settings"], method.settings
        if was == now and method.origin["kind"] == "videos":  # the settings do not tell whose they are
            was, now = before.get("origin"), method.origin
        if was != now:
            raise ValueError(
                f"{plan.folder} has a row {method.name!r} that was made with {was}, now {now}: pass --name for a row "
                "of its own, or --replace"
            )


def _shard(text: str) -> tuple[int, int]:
    match = re.fullmatch(r"(\d+)/(\d+)", text)
    if not match:
        raise ValueError(f"--shard must look like 1/4, got {text!r}")
    return int(match[1]), int(match[2])


def _stages(text: str) -> list[str]:
    names = [name.strip() for name in text.split(",") if name.strip()]
    for name in names:
        if name not in STAGES:
            raise ValueError(f"unknown stage {name!r}; known: {', '.join(STAGES)}")
    return names
