"""Estimates (poses, depth) and scores of every video, kept in small files by a hash of all that they depend on."""

import io
import math
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from mvtrack.evaluation.interface import (
    ESTIMATE_NEEDS,
    Column,
    Estimate,
    Estimator,
    Metric,
    Sample,
    Scores,
    Skipped,
    Subject,
    failed,
    skipped,
)
from mvtrack.evaluation.runner.case import Case, RowVideo, guarded
from mvtrack.evaluation.runner.records import pack, read_record, unpack, write_record
from mvtrack.files.atomic_io import write_aside


def gather(case: Case, needs: tuple[str, ...], video: RowVideo | None = None) -> dict[str, Estimate] | Skipped:
    """All estimates among `needs`, made where they are not yet; else why the first input or estimate lacks.

    video: whose estimates are needed; None where only the reference's are.
    """
    for need in needs:
        if need not in ESTIMATE_NEEDS and (why := case.inputs.why_missing(need)):
            return why
    estimates = {}
    for need in needs:
        if need in ESTIMATE_NEEDS:
            estimates[need] = _estimate(case, need, video)
            if isinstance(estimates[need], Skipped):
                return estimates[need]
    return estimates


def is_estimated(video: RowVideo, need: str) -> bool:
    """Whether there is nothing to do for an estimate: it is kept, or nothing here can make it."""
    plan = video.case.plan
    estimator = plan.estimators.get(need.split(".")[1])
    if estimator is None or estimator.missing():
        return True
    path = plan.estimate_file(estimator, plan.estimate_key(need, video.case.digest, video.sha256))
    record = read_record(path.with_suffix(".json"))
    return record is not None and ("declined" in record or path.is_file())


def _estimate(case: Case, need: str, video: RowVideo | None) -> Estimate | Skipped:
    plan, (subject, what) = case.plan, need.split(".")
    estimator = plan.estimators.get(what)
    if estimator is None:
        return skipped(f"missing an estimator of {what}")
    if lacking := estimator.missing():
        return skipped(f"missing {lacking}")
    key = plan.estimate_key(need, case.digest, video and video.sha256)
    path = plan.estimate_file(estimator, key)
    record = read_record(path.with_suffix(".json"))
    if record and record["key"] == key:
        if "declined" in record:
            return unpack(record["declined"])
        if (kept := _read(path)) is not None:
            return kept
    result = _run(estimator if video is None else estimator.of_row(video.row), case, subject, video)
    record = {"key": key, "estimator": estimator.name, "subject": subject, "case": case.key}
    if isinstance(result, Skipped):
        record["declined"] = pack(result)
    else:
        _write(path, result)
    write_record(path.with_suffix(".json"), record)
    return result


def _run(estimator: Estimator, case: Case, subject: Subject, video: RowVideo | None) -> Estimate | Skipped:
    inputs = case.inputs
    for need in estimator.needs:
        if why := inputs.why_missing(need):
            return why
    parts = {"reference": ("reference",), "generated": ("video",), "joint": ("reference", "video")}[subject]
    frames = torch.cat([inputs.reference if part == "reference" else video.frames for part in parts])
    seen = "reference and generated videos" if subject == "joint" else f"{subject} video"
    about = f"{estimator.name}, {seen}: "
    return guarded(lambda: estimator.estimate(inputs, frames, subject), about, case.plan.debug)


def _write(path: Path, estimate: Estimate) -> None:
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **estimate)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_aside(path, lambda aside: aside.write_bytes(buffer.getvalue()))


def _read(path: Path) -> Estimate | None:
    """What is kept; None where there is nothing or the file is damaged, so that it is made again."""
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            return dict(arrays)
    except (ValueError, OSError, EOFError, zipfile.BadZipFile, zlib.error):
        return None


def read_scores(video: RowVideo, metric: Metric) -> Scores | None:
    """What is on disk of one metric and video; None where it is not there or was made from something else."""
    record = read_record(video.case.plan.scores_file(video.row, video.case.key, metric.name))
    if record is None or record["key"] != _key(video, metric):
        return None
    return {name: unpack(value) for name, value in record["values"].items()}


def metrics_due(video: RowVideo) -> list[Metric]:
    """Metrics that can run here and have no result yet for a video."""
    return [m for m in video.case.plan.metrics if m.missing() is None and read_scores(video, m) is None]


def estimates_due(video: RowVideo) -> list[str]:
    """Estimates that a metric still to be run here will need and that are not on disk."""
    needed = dict.fromkeys(n for m in metrics_due(video) for n in m.needs if n in ESTIMATE_NEEDS)
    return [need for need in needed if not is_estimated(video, need)]


def estimate_case(case: Case) -> list[str]:
    """Make the estimates of a case's videos that are due; returns what failed, one line each."""
    failures = []
    for video in () if isinstance(case.inputs, Skipped) else case.videos():
        due = estimates_due(video)
        if not due or isinstance(video.frames, Skipped):
            continue  # scoring says why the frames lack, for each metric
        for need in due:
            made = gather(case, (need,), video)
            if isinstance(made, Skipped) and made.kind == "failed":
                failures.append(f"{video.row}, {case.key}: {made.reason}")
    return failures


def score_case(case: Case) -> list[str]:
    """Score a case's videos with the metrics that are due and look at one video at a time; returns what failed."""
    failures = []
    for video in () if isinstance(case.inputs, Skipped) else case.videos():
        for metric in metrics_due(video):
            if not hasattr(metric, "score_batch"):
                scores = _sample(video, metric)
                if isinstance(scores, Sample):
                    scores = guarded(lambda m=metric, s=scores: m.score(s), debug=case.plan.debug)
                failures += _keep(video, metric, scores)
    return failures


def score_together(metric: Metric, videos: list[RowVideo]) -> list[str]:
    """Score several videos with one call of a metric that sees many; each is read when its turn comes."""
    declined: dict[int, Skipped | Scores] = {}

    def samples() -> Iterator[Sample]:
        for i, video in enumerate(videos):
            sample = video.case.inputs if isinstance(video.case.inputs, Skipped) else _sample(video, metric)
            if isinstance(sample, Sample):
                yield sample
            else:
                declined[i] = sample
            video.release()
            if i + 1 == len(videos) or videos[i + 1].case is not video.case:
                video.case.release()

    results = guarded(lambda: metric.score_batch(samples()), debug=videos[0].case.plan.debug)
    seen = [i for i in range(len(videos)) if i not in declined]
    results = [results] * len(seen) if isinstance(results, Skipped) else results
    scores = declined | dict(zip(seen, results, strict=True))
    return [line for i, video in enumerate(videos) for line in _keep(video, metric, scores[i])]


def _key(video: RowVideo, metric: Metric) -> str:
    return video.case.plan.scores_key(metric, video.case.digest, video.sha256, video.row, video.case.key)


def _sample(video: RowVideo, metric: Metric) -> Sample | Scores | Skipped:
    """What a metric looks at; where an estimate failed, what it makes of that, or the reason why there is nothing."""
    if isinstance(video.frames, Skipped):
        return video.frames
    estimates = gather(video.case, metric.needs, video)
    if isinstance(estimates, Skipped):
        return metric.unestimated(estimates) if estimates.kind == "failed" else estimates
    return Sample(video.case.inputs, video.frames, video.path, estimates, video.row)


def _keep(video: RowVideo, metric: Metric, scores: Scores | Skipped) -> list[str]:
    """Write one metric's result; every column gets a value or a reason. Returns the failures in words."""
    values = checked(metric, scores)
    path = video.case.plan.scores_file(video.row, video.case.key, metric.name)
    write_record(path, {"key": _key(video, metric), "values": {name: pack(value) for name, value in values.items()}})
    bad = {v.reason for v in values.values() if isinstance(v, Skipped) and v.kind == "failed"}
    return [f"{video.row}, {video.case.key}, {metric.name}: {reason}" for reason in sorted(bad)]


def checked(metric: Metric, scores: Scores | Skipped) -> Scores:
    """A value or reason for each of the metric's columns; NaN and what was left out are failures."""
    if isinstance(scores, Skipped):
        return dict.fromkeys((c.key for c in metric.columns), scores)
    unknown = set(scores) - {c.key for c in metric.columns}
    if unknown:
        raise TypeError(f"metric {metric.name} gave the undeclared column {min(unknown)!r}")
    return {c.key: _checked(c, scores.get(c.key, failed(f"{metric.name} gave no {c.key}"))) for c in metric.columns}


def _checked(column: Column, value: float | Skipped) -> float | Skipped:
    """Infinity is a score where it is the best there can be."""
    if isinstance(value, Skipped):
        return value
    is_perfect = math.isinf(value) and column.better == ("higher" if value > 0 else "lower")
    return float(value) if math.isfinite(value) or is_perfect else failed(f"{column.key} is {float(value)}")
