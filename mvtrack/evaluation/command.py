"""What the commands of all benchmarks share: options, which rows to add, running, the report."""

import argparse
import os
import re
import sys
from pathlib import Path

from mvtrack.evaluation.interface import Benchmark, Method
from mvtrack.evaluation.measures.catalogue import all_estimators, chosen_metrics
from mvtrack.evaluation.measures.options import add_measure_arguments, measure_options
from mvtrack.evaluation.methods.baselines import BASELINES, Baseline
from mvtrack.evaluation.methods.given import GivenVideos
from mvtrack.evaluation.methods.model import ModelMethod
from mvtrack.evaluation.pose_options import add_pose_arguments, pose_estimator
from mvtrack.evaluation.report.summary import check_backbones
from mvtrack.evaluation.report.text import table_of
from mvtrack.evaluation.report.write import write_report
from mvtrack.evaluation.runner.plan import Plan
from mvtrack.evaluation.runner.records import hash_of, read_record, write_record
from mvtrack.evaluation.runner.stages import STAGES, forget_failures, run_stages
from mvtrack.generate import SampleConfig

_MOST_LINES = 20


def add_run_arguments(parser: argparse.ArgumentParser, out: str) -> None:
    """Options that mean the same for every benchmark."""
    row = parser.add_argument_group("rows to add to the table; without one, what is there is scored and reported")
    row.add_argument("--model", type=Path, help="folder of a model of this project")
    row.add_argument("--videos", type=Path, help="folder of videos that another program made: <case>.mp4")
    row.add_argument("--baselines", help=f"comma-separated, or all: {', '.join(BASELINES)}")
    row.add_argument("--name", help="of the row, for files; default: the folder's name")
    row.add_argument("--title", help="of the row, for tables; default: the name")
    row.add_argument("--group", default="Models", help="heading above the row")
    row.add_argument("--backbone", help="row, ours or a published one, that changes are counted from")
    row.add_argument("--steps", type=int, default=8, help="sampling steps of --model")
    row.add_argument("--guidance", type=float, default=1.0, help="text guidance of --model; 1 is none")
    row.add_argument("--seed", type=int, default=0)
    row.add_argument("--resize-videos", action="store_true", help="scale --videos of another size; else they fail")
    row.add_argument("--replace", action="store_true", help="replace a row of this name that was made otherwise")
    run = parser.add_argument_group("running")
    run.add_argument("--out", type=Path, default=Path(out), help="results folder; run again with it to go on")
    run.add_argument("--metrics", help="comma-separated; default: all")
    run.add_argument("--stages", default=",".join(STAGES), help="which of the stages to run; the report comes last")
    run.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="processes, each with one thread")
    run.add_argument("--shard", default="1/1", help="i/n: only every n-th case, from the i-th on; no report")
    run.add_argument("--retry-failed", action="store_true", help="try again what failed before")
    run.add_argument("--debug", action="store_true", help="show a traceback when something fails")
    add_measure_arguments(parser)
    add_pose_arguments(parser)


def case_size(text: str) -> tuple[int, int]:
    """A size option such as 480x832 (height x width)."""
    match = re.fullmatch(r"([1-9]\d{0,4})x([1-9]\d{0,4})", text)
    if not match:
        raise argparse.ArgumentTypeError(f"must look like 480x832 (height x width), got {text!r}")
    return int(match[1]), int(match[2])


def methods_of(options: argparse.Namespace) -> tuple[Method, ...]:
    """The rows that the options ask for."""
    if options.model and options.videos:
        raise ValueError("--model and --videos are two rows: add them with one command each")
    methods: list[Method] = []
    if options.model or options.videos:
        folder = options.model or options.videos
        if not folder.exists():
            raise ValueError(f"{'--model' if options.model else '--videos'} {folder} does not exist")
        name = options.name or re.sub(r"[^A-Za-z0-9_.-]+", "_", folder.resolve().name)
        title = options.title or name
        if options.model:
            sample = SampleConfig(options.steps, options.guidance, options.seed)
            methods.append(ModelMethod(name, title, folder, sample, options.backbone, options.group))
        else:
            methods.append(GivenVideos(name, title, folder, options.resize_videos, options.backbone, options.group))
    kinds = [k.strip() for k in (options.baselines or "").split(",") if k.strip()]
    for kind in BASELINES if kinds == ["all"] else kinds:
        if kind not in BASELINES:
            raise ValueError(f"unknown baseline {kind!r}; known: {', '.join(BASELINES)}")
        methods.append(Baseline(kind))
    return tuple(methods)


def run_benchmark(benchmark: Benchmark, methods: tuple[Method, ...], options: argparse.Namespace) -> dict | None:
    """Run the stages and write the report; returns its summary, None for a shard."""
    models = {m.name: m.folder for m in methods if isinstance(m, ModelMethod)}
    measuring = measure_options(options, models, benchmark.name)
    estimators = all_estimators(pose_estimator(options, measuring.pythons.get("da3"), benchmark.num_frames))
    plan = Plan(benchmark, methods, chosen_metrics(options.metrics, measuring), estimators, options.out)
    shard, stages = _shard(options.shard), _stages(options.stages)
    check_backbones(plan)
    _check_folder(plan)
    if not options.replace:
        _check_rows(plan)
    if options.retry_failed:
        forget_failures(plan, shard)
    troubles = run_stages(plan, stages, options.workers, shard)
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
        if before and before["settings"] != method.settings:
            raise ValueError(
                f"{plan.folder} has a row {method.name!r} that was made with {before['settings']}, now "
                f"{method.settings}: pass --name for a row of its own, or --replace"
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
