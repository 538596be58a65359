"""The last stage before the report: every metric on every video, each result a small file of its own."""

import math
from collections.abc import Callable, Iterator

from jaxtyping import Float
from torch import Tensor

from mvtrack.evaluation.interface import (
    ESTIMATE_NEEDS,
    BatchMetric,
    Column,
    CoverageMetric,
    Declined,
    Inputs,
    Metric,
    Sample,
    Scores,
    failed,
)
from mvtrack.evaluation.runner.estimates import gather, is_estimated
from mvtrack.evaluation.runner.fault_tolerance import guarded
from mvtrack.evaluation.runner.plan import Plan
from mvtrack.evaluation.runner.records import pack_scores, read_record, unpack_scores, write_record
from mvtrack.evaluation.runner.videos import read_made


def video_of(plan: Plan, method: str, key: str, digest: str) -> dict | None:
    """The record of a case's video if it is up to date and there is a video."""
    record = read_record(plan.video_record(method, key))
    return record if record and record["inputs"] == digest and "video" in record else None


def read_scores(plan: Plan, method: str, key: str, metric: Metric, digest: str, video_sha: str) -> Scores | None:
    """What is on disk of one metric and video; None where it is not there or was made from something else."""
    record = read_record(plan.scores_file(method, key, metric.name))
    if record is None or record["key"] != plan.scores_key(metric, digest, video_sha, method, key):
        return None
    return unpack_scores(record["values"])


def metrics_due(plan: Plan, method: str, key: str, digest: str) -> list[Metric]:
    """Metrics that can run here and have no result yet for a case's video."""
    record = video_of(plan, method, key, digest)
    if record is None:
        return []
    return [
        metric
        for metric in plan.metrics
        if metric.missing() is None and read_scores(plan, method, key, metric, digest, record["sha256"]) is None
    ]


def estimates_due(plan: Plan, method: str, key: str, digest: str) -> list[str]:
    """Estimates of a case that a metric still to be run here will ask for and that are not on disk."""
    record = video_of(plan, method, key, digest)
    wanted = {n: None for m in metrics_due(plan, method, key, digest) for n in m.needs if n in ESTIMATE_NEEDS}
    return [n for n in wanted if not is_estimated(plan, n, digest, record["sha256"])]


def estimate_case(plan: Plan, method: str, key: str, digest: str, inputs: Inputs) -> list[str]:
    """Make one video's estimates that are due; returns what failed."""
    due, record = estimates_due(plan, method, key, digest), video_of(plan, method, key, digest)
    if not due:
        return []
    video, troubles = made_video(plan, record, inputs), []
    if isinstance(video, Declined):
        return []  # scoring says so, for each metric
    for need in due:
        found = gather(plan, (need,), digest, record["sha256"], inputs, video, method)
        if isinstance(found, Declined) and found.kind == "failed":
            troubles.append(f"{method}, {key}: {found.reason}")
    return troubles


def score_case(plan: Plan, method: str, key: str, digest: str, inputs: Inputs) -> list[str]:
    """Score one video with all metrics that are due and look at one video at a time; returns what failed."""
    due = [m for m in metrics_due(plan, method, key, digest) if not isinstance(m, BatchMetric)]
    record = video_of(plan, method, key, digest)
    if not due or record is None:
        return []
    video, troubles = made_video(plan, record, inputs), []
    for metric in due:
        sample = _sample(plan, metric, method, record, inputs, video, digest)
        scores = sample
        if isinstance(sample, Sample):
            scores = guarded(lambda m=metric, s=sample: m.score(s), debug=plan.debug)
        troubles += _keep(plan, metric, method, key, digest, record, scores)
    return troubles


def score_together(
    plan: Plan,
    metric: BatchMetric,
    group: list[tuple[str, str]],
    digests: dict[str, str],
    load: Callable[[str], Inputs | Declined],
) -> list[str]:
    """Score several (method, case) with one call of a metric that asks for it; each is read when its turn comes."""
    declined: dict[tuple[str, str], Declined | Scores] = {}

    def samples() -> Iterator[Sample]:
        for method, key in group:
            inputs = load(key)
            sample = inputs
            if not isinstance(inputs, Declined):
                record = video_of(plan, method, key, digests[key])
                video = made_video(plan, record, inputs)
                sample = _sample(plan, metric, method, record, inputs, video, digests[key])
            if isinstance(sample, Sample):
                yield sample
            else:
                declined[method, key] = sample

    results = guarded(lambda: metric.score_batch(samples()), debug=plan.debug)
    scored = [pair for pair in group if pair not in declined]
    results = [results] * len(scored) if isinstance(results, Declined) else results
    found, troubles = declined | dict(zip(scored, results, strict=True)), []
    for method, key in group:
        record = video_of(plan, method, key, digests[key])
        troubles += _keep(plan, metric, method, key, digests[key], record, found[method, key])
    return troubles


def made_video(plan: Plan, record: dict, inputs: Inputs) -> Float[Tensor, "T 3 H W"] | Declined:
    """The frames of a video that a record names, or why they cannot be scored: it was damaged or changed since."""
    path = plan.folder / record["video"]
    about = f"the video cannot be read, delete {path} to have it made again: "
    video = guarded(lambda: read_made(plan, record), about, plan.debug)
    if isinstance(video, Declined):
        return video
    if video.shape != inputs.reference.shape:
        return failed(f"{path} is {tuple(video.shape)}, the reference {tuple(inputs.reference.shape)}: it was replaced")
    return video


def _sample(
    plan: Plan, metric: Metric, method: str, record: dict, inputs: Inputs, video: Tensor | Declined, digest: str
) -> Sample | Scores | Declined:
    """What a metric looks at; where an estimate failed, what it makes of that, or the reason why there is nothing."""
    if isinstance(video, Declined):
        return video
    estimates = gather(plan, metric.needs, digest, record["sha256"], inputs, video, method)
    if isinstance(estimates, Declined):
        is_counted = estimates.kind == "failed" and isinstance(metric, CoverageMetric)
        return metric.unestimated(estimates) if is_counted else estimates
    return Sample(inputs, video, plan.folder / record["video"], estimates, method)


def _keep(
    plan: Plan, metric: Metric, method: str, key: str, digest: str, record: dict, scores: Scores | Declined
) -> list[str]:
    """Write one metric's result; every column gets a value or a reason. Returns the failures in words."""
    values = checked(metric, scores)
    path = plan.scores_file(method, key, metric.name)
    score_key = plan.scores_key(metric, digest, record["sha256"], method, key)
    write_record(path, {"key": score_key, "values": pack_scores(values)})
    bad = {v.reason for v in values.values() if isinstance(v, Declined) and v.kind == "failed"}
    return [f"{method}, {key}, {metric.name}: {reason}" for reason in sorted(bad)]


def checked(metric: Metric, scores: Scores | Declined) -> Scores:
    """A value or reason for each of the metric's columns; NaN and what was left out are failures."""
    if isinstance(scores, Declined):
        return dict.fromkeys((c.key for c in metric.columns), scores)
    unknown = set(scores) - {c.key for c in metric.columns}
    if unknown:
        raise TypeError(f"metric {metric.name} gave the undeclared column {min(unknown)!r}")
    values = {}
    for column in metric.columns:
        value = scores.get(column.key, failed(f"{metric.name} gave no {column.key}"))
        if not isinstance(value, Declined):
            value = float(value)
            if math.isnan(value) or (math.isinf(value) and not _is_perfect(value, column)):
                value = failed(f"{column.key} is {value}")
        values[column.key] = value
    return values


def _is_perfect(value: float, column: Column) -> bool:
    return column.better == ("higher" if value > 0 else "lower")
