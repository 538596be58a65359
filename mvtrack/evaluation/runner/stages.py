"""Runs a plan: videos, estimates, scores, previews; over cases in parallel, each piece once, failures left behind."""

import multiprocessing
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

import torch
from tqdm import tqdm

from mvtrack.config.cluster import RayOptions, Shard, shard_of
from mvtrack.evaluation.interface import Method
from mvtrack.evaluation.runner.case import Case
from mvtrack.evaluation.runner.plan import Plan
from mvtrack.evaluation.runner.records import read_record, write_record
from mvtrack.evaluation.runner.scoring import estimate_case, estimates_due, metrics_due, score_case, score_together
from mvtrack.evaluation.runner.videos import generate_case, methods_due, preview_case, previews_due
from mvtrack.inference.ray_pool import connected, run_tasks

STAGES = ("generate", "estimate", "score", "page")
_TOGETHER = 64  # videos that a metric sees at once: what was scored before a kill is kept in steps of so many
Work = Callable[[Case], list[str]]  # on one case; returns what failed, one line each


def run_stages(
    plan: Plan, stages: Iterable[str] = STAGES, workers: int = 1, shard: Shard = (1, 1),
    cluster: RayOptions | None = None,
) -> list[str]:  # fmt: skip
    """Do what is not done yet; returns what failed in this run, one line each.

    workers: processes, each with one thread; 1 stays in this process. shard: (i, n) takes every n-th case, from the
    i-th on; shards share nothing and may run on different machines over one folder. cluster: the workers of a Ray
    cluster instead, which share that folder; what metrics score together is scored here.
    """
    if cluster is not None and cluster.ray:
        with connected():
            return _run_stages(plan, stages, shard, partial(_over_cases, spread=partial(_on_cluster, cluster=cluster)))
    return _run_stages(plan, stages, shard, partial(_over_cases, spread=partial(_spread, workers=workers)))


def _run_stages(plan: Plan, stages: Iterable[str], shard: Shard, over_cases: Callable[..., list[str]]) -> list[str]:
    cases = [Case.of(plan, key) for key in shard_of(plan.benchmark.case_keys(), shard)]
    for method in plan.methods:
        write_record(plan.method_file(method.name), method_record(method))
    failures = []
    if "generate" in stages:
        due = {case.key: methods_due(case) for case in cases}
        for method in plan.methods:
            keys = [key for key, methods in due.items() if method in methods]
            if keys:
                method.prepare(plan.benchmark, keys)
        failures += over_cases(generate_case, [case for case in cases if due[case.key]], "generating")
    if "estimate" in stages:
        due = [case for case in cases if any(map(estimates_due, case.videos()))]
        failures += over_cases(estimate_case, due, "estimating")
    if "score" in stages:
        due = [case for case in cases if any(map(metrics_due, case.videos()))]
        failures += over_cases(score_case, due, "scoring")
        with _one_thread():
            failures += _score_batches(plan, due)
    if "page" in stages:
        failures += over_cases(preview_case, [case for case in cases if previews_due(case)], "previews")
    return failures


def method_record(method: Method) -> dict:
    """What the report, and a later command that goes on with the row, must know of a method, as plain values."""
    shown = {name: getattr(method, name) for name in ("name", "title", "group", "bound", "backbone", "settings")}
    notes = {"needs": list(method.needs), "footnotes": list(method.footnotes), "origin": method.origin}
    return {"key": method.name, **shown, **notes}


def forget_failures(plan: Plan, shard: Shard = (1, 1)) -> int:
    """Delete the records of what failed, so that it is tried again; returns how many. Rows that this run cannot make
    keep those of their videos."""
    keys, gone = set(shard_of(plan.benchmark.case_keys(), shard)), 0
    files = [f for m in plan.methods for f in (plan.folder / "methods" / m.name).rglob("*.json")]
    files += [f for row in plan.others for f in (plan.folder / "methods" / row / "scores").rglob("*.json")]
    for file in [*files, *(plan.folder / "estimates").rglob("*.json")]:
        record = read_record(file)
        case = record.get("case", file.parent.name if file.parent.parent.name == "scores" else file.stem)
        reasons = [record.get("declined"), *record.get("values", {}).values()]
        if case in keys and any(isinstance(r, dict) and r["kind"] == "failed" for r in reasons):
            file.unlink()
            gone += 1
    return gone


def _score_batches(plan: Plan, cases: list[Case]) -> list[str]:
    failures = []
    for metric in (m for m in plan.metrics if hasattr(m, "score_batch")):
        videos = [video for case in cases for video in case.videos() if metric in metrics_due(video)]
        with tqdm(total=len(videos), desc=f"scoring, {metric.name}", unit="video", disable=not videos) as bar:
            for start in range(0, len(videos), _TOGETHER):
                group = videos[start : start + _TOGETHER]
                failures += score_together(metric, group)
                bar.update(len(group))
    return failures


def _over_cases(work: Work, cases: list[Case], title: str, spread: Callable[..., Iterator[list[str]]]) -> list[str]:
    failures = []
    with tqdm(total=len(cases), desc=title, unit="case", disable=not cases) as bar:
        for lines in spread(work, cases):
            failures += lines
            bar.update()
            bar.set_postfix(failed=len(failures))
    return sorted(failures)


@dataclass(frozen=True)
class _CaseWork:
    """Work on cases by their keys, in a worker."""

    work: Work
    plan: Plan
    digests: dict[str, str]

    def __call__(self, key: str) -> list[str]:
        return self.work(Case(self.plan, key, self.digests[key]))


def _on_cluster(work: Work, cases: list[Case], cluster: RayOptions) -> Iterator[list[str]]:
    if not cases:
        return
    digests = {case.key: case.digest for case in cases}
    with _one_thread():
        for _, lines in run_tasks(partial(_CaseWork, work, cases[0].plan, digests), list(digests), cluster):
            if isinstance(lines, ValueError):
                raise lines
            yield lines


def _spread(work: Work, cases: list[Case], workers: int) -> Iterator[list[str]]:
    cases = [Case(case.plan, case.key, case.digest) for case in cases]  # inputs are read where they are needed
    if workers <= 1 or len(cases) <= 1:
        with _one_thread():
            while cases:
                yield work(cases.pop(0))  # and are gone with the case
        return
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(min(workers, len(cases)), context, initializer=torch.set_num_threads, initargs=(1,))
    try:
        for future in as_completed([pool.submit(work, case) for case in cases]):
            yield future.result()
    except BrokenProcessPool:
        raise ValueError(
            "a worker process was killed (out of memory?): run again with fewer --workers; what is done is kept"
        ) from None
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


@contextmanager
def _one_thread() -> Iterator[None]:
    """One thread gives the same sums, hence the same bytes, as a worker process."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
