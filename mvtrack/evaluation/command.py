"""What the commands of all benchmarks share: options, rows, running, the report."""

import os
import re
import sys
from dataclasses import replace
from pathlib import Path

import torch

from mvtrack.config.checked import Count, NonNegative, config
from mvtrack.config.cluster import RayOptions, Shard, parse_shard
from mvtrack.config.command_line import Command, option, overrides, refuse_unused, section
from mvtrack.config.placement import Placement
from mvtrack.evaluation.interface import Benchmark, Method
from mvtrack.evaluation.measures.registry import all_estimators, all_metrics, chosen_metrics, pose_estimator
from mvtrack.evaluation.methods.baselines import BASELINES, Baseline
from mvtrack.evaluation.methods.existing_rows import ExistingRows, ExternalVideos, existing_rows
from mvtrack.evaluation.methods.model import ModelMethod
from mvtrack.evaluation.report.summary import check_backbones
from mvtrack.evaluation.report.write import table_of, write_report
from mvtrack.evaluation.runner.plan import Plan
from mvtrack.evaluation.runner.records import hash_of, read_record, write_record
from mvtrack.evaluation.runner.stages import STAGES, forget_failures, run_stages
from mvtrack.evaluation.settings import EvaluationSettings, load_settings
from mvtrack.inference.device import placed_config
from mvtrack.inference.sampler import SamplerOptions
from mvtrack.models.decoder.files import load_aligner
from mvtrack.models.reshoot_model import model_file

_MOST_LINES = 20
_PROGRAMS = ("vbench", "met3r", "mast3r", "vggt")
# flags of earlier versions: where their values are now
RETIRED = {f"--{name}-python": f"set environments.{name}=PYTHON, there or in --settings FILE" for name in _PROGRAMS} | {
    flag: f"set {key}=..., there or in --settings FILE (docs/evaluation.md)"
    for flag, key in {
        "--da3-python": "environments.depth_anything_3", "--weights-dir": "weights", "--lpips-net": "lpips_net",
        "--geometry": "consistency.geometry", "--geometry-model": "consistency.geometry_model",
        "--features": "consistency.features", "--pairs": "consistency.pairs",
        "--dynamic-mask": "consistency.dynamic_mask", "--generated-masks": "consistency.generated_masks",
        "--depth-files": "consistency.depth_files", "--poses": "poses.estimator", "--pose-files": "poses.files",
        "--pose-scale": "poses.scale", "--camera-origin": "poses.origin", "--da3-model": "poses.model",
        "--da3-ray-pose": "poses.ray_pose", "--group": "row.group", "--resize-videos": "row.resize_videos",
        "--other-size": "row.other_size", "--negative": "row.negative", "--decoder": "row.decoder",
        "--precision": "placement.precision",
        "--offload": "placement.offload", "--compile": "placement.compile", "--attention": "placement.attention",
        "--tiled": "placement.tiled", "--batched-guidance": "placement.batched_guidance",
        "--encoders-on-cpu": "placement.encoders_on_cpu", "--vae": "placement.encoders.vae",
        "--text": "placement.encoders.text", "--tokenizer": "placement.encoders.tokenizer",
        "--image": "placement.encoders.image", "--resolution": "davis.resolution",
        "--annotations": "davis.annotations", "--fov": "davis.fov_deg", "--source-cameras": "davis.cameras",
        "--subject-distance": "davis.subject_distance", "--short-clips": "davis.short_clips",
        "--fit": "davis.fit or iphone.fit", "--start": "iphone.start", "--stride": "iphone.stride",
    }.items()
}  # fmt: skip


def names_of(text: str) -> tuple[str, ...]:
    """A comma-separated list."""
    return tuple(name.strip() for name in text.split(",") if name.strip())


def size_of(text: str) -> tuple[int, int]:
    """A size such as 480x832 (height x width)."""
    match = re.fullmatch(r"([1-9]\d{0,4})x([1-9]\d{0,4})", text)
    if not match:
        raise ValueError(f"must look like 480x832 (height x width), got {text!r}")
    return int(match[1]), int(match[2])


@config(kw_only=True)
class RowOptions:
    """Which rows a command adds: a model, videos of another program, baselines."""

    model: Path | None = option(None, "model of this project, a folder or hub id", metavar="M")
    videos: Path | None = option(None, "another program's <case>.mp4", metavar="FOLDER")
    baselines: tuple[str, ...] = option((), "all, or copy, ground_truth, ...", metavar="LIST", parse=names_of)
    name: str | None = option(None, "of the row's files; default: the folder's name")
    title: str | None = option(None, "of the row in tables; default: the name")
    backbone: str | None = option(None, "row that changes are counted from", metavar="ROW")
    steps: Count | None = option(None, "of sampling; default: the model's own wish")
    guidance: float | None = option(None, "by captions; default: the model's own", metavar="G")
    seed: int = option(0, "of the noise")
    cache: NonNegative = option(0.0, "threshold of the step cache; 0: off")
    replace: bool = option(False, "replace a row of this name made otherwise")


@config(kw_only=True)
class RunOptions:
    """What is run, and where it is kept."""

    out: Path = option(Path("outputs/evaluation"), "results folder, to go on in; default: outputs/...")
    metrics: tuple[str, ...] = option((), "comma-separated; default: all", metavar="LIST", parse=names_of)
    stages: tuple[str, ...] = option(
        STAGES, "of generate,estimate,score,page; default: all", metavar="LIST", parse=names_of
    )
    settings: Path | None = option(None, "YAML of all else (docs/evaluation.md)", metavar="FILE")
    device: str | None = option(None, "cpu, cuda:1; default: a GPU if there is one")
    workers: Count | None = option(None, "processes; default: one a core or GPU", metavar="N")
    shard: Shard = option((1, 1), "every n-th case, no report; default: 1/1", metavar="I/N", parse=parse_shard)
    retry_failed: bool = option(False, "try again what failed before")
    non_commercial: bool = option(False, "run what may not be used commercially")
    published: bool = option(False, "papers' rows beside a rendered miniature")
    ignore_memory: bool = option(False, "start although memory may not do")
    changes: tuple[str, ...] = overrides("change single settings")

    def __post_init__(self) -> None:
        for stage in self.stages:
            if stage not in STAGES:
                raise ValueError(f"unknown stage {stage!r}; known: {', '.join(STAGES)}")


@config(kw_only=True)
class BenchmarkCommand(Command):
    """What every benchmark's command takes."""

    rows: RowOptions = section(RowOptions, "rows to add; without one, go on with those that are there")
    run: RunOptions = section(RunOptions, "running")
    cluster: RayOptions = section(RayOptions, "many devices and machines")

    def settings(self) -> EvaluationSettings:
        """Of the YAML file, the single changes, and the flags."""
        settings, run = load_settings(self.run.settings, self.run.changes), self.run
        placement: Placement = replace(settings.placement, **({"device": run.device} if run.device else {}))
        _ = placement.torch_device  # ValueError for one that is not there
        return replace(settings, placement=placement)


def methods_of(rows: RowOptions, settings: EvaluationSettings, check_memory: bool = True) -> tuple[Method, ...]:
    """The rows that the options name. Raises ValueError for an option that would have no effect."""
    if rows.model and rows.videos:
        raise ValueError("--model and --videos are two rows: add them with one command each")
    methods: list[Method] = []
    if source := rows.model or rows.videos:
        name = rows.name or re.sub(r"[^A-Za-z0-9_.-]+", "_", (source.resolve() if source.exists() else source).name)
        named = replace(rows, name=name, title=rows.title or name)
        methods.append(model_row(named, settings, check_memory) if rows.model else _external_row(named, settings))
    for kind in BASELINES if rows.baselines == ("all",) else rows.baselines:
        if kind not in BASELINES:
            raise ValueError(f"unknown baseline {kind!r}; known: {', '.join(BASELINES)}")
        methods.append(Baseline(kind, None if kind == rows.backbone else rows.backbone))
    if not rows.model:
        refuse_unused(rows, "steps", "guidance", "seed", "cache", why="it is for --model: leave it out")
    if not source:
        refuse_unused(rows, "name", "title", why="it is for --model or --videos: leave it out")
    if not methods:
        refuse_unused(rows, "backbone", "replace", why="it is for --model, --videos or --baselines: leave it out")
    return tuple(methods)


def model_row(rows: RowOptions, settings: EvaluationSettings, check_memory: bool = True) -> ModelMethod:
    """A model, sampled and placed as the options say, or as its file does where they are silent; a hub id is downloaded
    where the hub's cache lacks it."""
    folder = rows.model if rows.model.exists() else model_file(rows.model).parent
    row = settings.row
    method = ModelMethod(
        rows.name, rows.title, folder, None, settings.placement, row.negative, row.other_size, rows.backbone, row.group
    )
    placed_config(method.config, method.placement)
    sample = SamplerOptions.of(method.config, rows.steps, rows.guidance, rows.seed, rows.cache)
    if sample.guidance != 1 and not method.config.dit.text_dim:
        raise ValueError(f"{folder} takes no captions (dit.text_dim is 0): leave out --guidance")
    if row.negative is not None and sample.guidance == 1:
        raise ValueError("row.negative is for guidance by captions: set --guidance above 1, or leave it out")
    if row.decoder is not None:
        load_aligner(row.decoder, method.config.codec)  # one that does not fit is said before any video
    return replace(method, sample=sample, check_memory=check_memory, decoder=row.decoder)


def _external_row(rows: RowOptions, settings: EvaluationSettings) -> ExternalVideos:
    if not rows.videos.exists():
        raise ValueError(f"--videos {rows.videos} does not exist")
    row = settings.row
    return ExternalVideos(rows.name, rows.title, rows.videos, row.resize_videos, rows.backbone, row.group)


def default_workers() -> int:
    """One process where there is a GPU, whose memory each would fill with networks of its own; else one a core."""
    return 1 if torch.cuda.is_available() else os.cpu_count() or 1


def run_benchmark(
    benchmark: Benchmark, options: BenchmarkCommand, settings: EvaluationSettings, methods: tuple[Method, ...]
) -> dict | None:
    """Run the stages and write the report; returns its summary, None for a shard. No method: those that the folder
    holds."""
    run, cluster = options.run, options.cluster
    if cluster.ray:
        refuse_unused(run, "workers", why="it is for this machine's processes, and --ray-workers for a cluster's")
    found = ExistingRows() if methods else existing_rows(run.out, settings.placement, not run.ignore_memory)
    plan = _plan(benchmark, options, settings, methods or found.methods, found)
    check_backbones(plan)
    _check_folder(plan)
    if not options.rows.replace:
        _check_rows(plan)
    for note in found.notes:
        sys.stderr.write(f"{note}\n")
    if run.retry_failed:
        forget_failures(plan, run.shard)
    failures = run_stages(plan, run.stages, run.workers or default_workers(), run.shard, cluster)
    for line in failures[:_MOST_LINES]:
        sys.stderr.write(f"failed: {line}\n")
    if len(failures) > _MOST_LINES:
        sys.stderr.write(f"and {len(failures) - _MOST_LINES} more\n")
    if run.shard != (1, 1):
        done = "/".join(map(str, run.shard))
        sys.stdout.write(f"shard {done} done; when all are, run again without --shard for the report\n")
        return None
    summary, files = write_report(plan)
    sys.stdout.write(f"{benchmark.full_title}\n\n{table_of(summary)}\n\n" + "".join(f"{path}\n" for path in files))
    return summary


def _plan(
    benchmark: Benchmark, options: BenchmarkCommand, settings: EvaluationSettings, methods: tuple[Method, ...],
    found: ExistingRows,
) -> Plan:  # fmt: skip
    run, models = options.run, {m.name: m for m in methods if isinstance(m, ModelMethod)}
    origin = settings.poses.origin or benchmark.camera_origin
    settings = replace(settings, poses=replace(settings.poses, origin=origin))
    metrics = all_metrics(settings, models | dict.fromkeys(found.lost_models), run.non_commercial)
    estimators = all_estimators(pose_estimator(settings, benchmark.num_frames, run.non_commercial))
    return Plan(
        benchmark, methods, chosen_metrics(metrics, run.metrics), estimators, run.out, tuple(found.others),
        options.debug, run.published or not benchmark.is_miniature,
    )  # fmt: skip


def _check_folder(plan: Plan) -> None:
    """One results folder is for one benchmark with one set of settings: means of two must not mix."""
    path, benchmark, cases = plan.folder / "benchmark.json", plan.benchmark, plan.benchmark.case_keys()
    before, key = read_record(path), hash_of([benchmark.name, benchmark.settings, cases])
    if before is None:
        shown = {"name": benchmark.name, "settings": benchmark.settings, "cases": len(cases)}
        write_record(path, {"key": key} | shown)
    elif before["key"] != key:
        was = f"{before['name']} with {before['settings']} and {before['cases']} cases"
        raise ValueError(f"{plan.folder} holds results of {was}: choose another --out")


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
