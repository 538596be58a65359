"""Runs a plan: videos, estimates, scores, previews; over cases in parallel, each piece once, failures left behind."""

import multiprocessing
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from functools import lru_cache, partial

import torch
from tqdm import tqdm

from mvtrack.evaluation.interface import BatchMetric, Declined, Inputs, Method, PreparedMethod
from mvtrack.evaluation.runner.fault_tolerance import guarded
from mvtrack.evaluation.runner.plan import Plan
from mvtrack.evaluation.runner.previews import make_previews, previews_due
from mvtrack.evaluation.runner.records import hash_of, read_record, write_record
from mvtrack.evaluation.runner.scoring import (
    estimate_case,
    estimates_due,
    metrics_due,
    score_case,
    score_together,
)
from mvtrack.evaluation.runner.videos import make_video, video_is_due

STAGES = ("generate", "estimate", "score", "page")
_TOGETHER = 64  # videos that a metric sees at once: what was scored before a kill is kept in steps of so many


def run_stages(
    plan: Plan, stages: Iterable[str] = STAGES, workers: int = 1, shard: tuple[int, int] = (1, 1)
) -> list[str]:
    """Do what is not done yet; returns what failed in this run, one line each.

    workers: processes, each with one thread; 1 stays in this process. shard: (i, n) takes every n-th case, from the
    i-th on; shards share nothing and may run on different machines over one folder.
    """
    keys = shard_of(plan.benchmark.case_keys(), shard)
    digests = {key: digest_of_case(plan, key) for key in keys}
    for method in plan.methods:
        write_record(plan.method_file(method.name), method_record(method))
    troubles = []
    if "generate" in stages:
        due = _prepared(plan, keys, digests)
        troubles += _over_cases(_generate_case, plan, due, digests, workers, "generating")
    if "estimate" in stages:
        due = [key for key in keys if any(estimates_due(plan, row, key, digests[key]) for row in plan.rows)]
        troubles += _over_cases(_estimate_case, plan, due, digests, workers, "estimating")
    if "score" in stages:
        due = [key for key in keys if any(metrics_due(plan, row, key, digests[key]) for row in plan.rows)]
        troubles += _over_cases(_score_case, plan, due, digests, workers, "scoring")
        with _one_thread():
            troubles += _score_batches(plan, due, digests)
    if "page" in stages:
        due = [key for key in keys if previews_due(plan, key, digests[key])]
        troubles += _over_cases(_preview_case, plan, due, digests, workers, "previews")
    return troubles


def shard_of(keys: list[str], shard: tuple[int, int]) -> list[str]:
    number, count = shard
    if not 1 <= number <= count:
        raise ValueError(f"shard {number}/{count} does not exist: the first is 1/{count}, the last {count}/{count}")
    return keys[number - 1 :: count]


def digest_of_case(plan: Plan, key: str) -> str:
    """The hash of a case's files, or of the reason why they cannot be read."""
    digest = guarded(lambda: plan.benchmark.digest(key), debug=plan.debug)
    return hash_of(f"unreadable: {digest.reason}") if isinstance(digest, Declined) else digest


def method_record(method: Method) -> dict:
    """What the report, and a later command that goes on with the row, must know of a method, as plain values."""
    shown = {name: getattr(method, name) for name in ("name", "title", "group", "bound", "backbone", "settings")}
    notes = {"needs": list(method.needs), "footnotes": list(method.footnotes), "origin": method.origin}
    return {"key": method.name, **shown, **notes}


def forget_failures(plan: Plan, shard: tuple[int, int] = (1, 1)) -> int:
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


def _prepared(plan: Plan, keys: list[str], digests: dict[str, str]) -> list[str]:
    """The cases for which a video is to be made, after the methods that make them have looked at them."""
    due: set[str] = set()
    for method in plan.methods:
        mine = [key for key in keys if video_is_due(plan, method, key, digests[key])]
        if mine and isinstance(method, PreparedMethod):
            method.prepare(plan.benchmark, mine)
        due.update(mine)
    return [key for key in keys if key in due]


def _generate_case(plan: Plan, key: str, digest: str) -> list[str]:
    due, inputs, troubles = [m for m in plan.methods if video_is_due(plan, m, key, digest)], _load(plan, key), []
    for method in due:
        why = make_video(plan, method, key, digest, inputs)
        if why and why.kind == "failed":
            troubles.append(f"{method.name}, {key}: {why.reason}")
    return troubles


def _score_case(plan: Plan, key: str, digest: str) -> list[str]:
    inputs = _load(plan, key)
    if isinstance(inputs, Declined):
        return []
    return [line for row in plan.rows for line in score_case(plan, row, key, digest, inputs)]


def _estimate_case(plan: Plan, key: str, digest: str) -> list[str]:
    inputs = _load(plan, key)
    if isinstance(inputs, Declined):
        return []
    return [line for row in plan.rows for line in estimate_case(plan, row, key, digest, inputs)]


def _preview_case(plan: Plan, key: str, digest: str) -> list[str]:
    inputs = _load(plan, key)
    troubles = guarded(lambda: make_previews(plan, key, digest, inputs), f"{key}, page: ", plan.debug)
    return [troubles.reason] if isinstance(troubles, Declined) else troubles


def _load(plan: Plan, key: str) -> Inputs | Declined:
    return guarded(lambda: plan.benchmark.load(key), "inputs: ", plan.debug)


def _score_batches(plan: Plan, keys: list[str], digests: dict[str, str]) -> list[str]:
    troubles = []
    load = lru_cache(maxsize=1)(partial(_load, plan))
    for metric in (m for m in plan.metrics if isinstance(m, BatchMetric)):
        pairs = [(row, key) for key in keys for row in plan.rows if metric in metrics_due(plan, row, key, digests[key])]
        with tqdm(total=len(pairs), desc=f"scoring, {metric.name}", unit="video", disable=not pairs) as bar:
            for start in range(0, len(pairs), _TOGETHER):
                group = pairs[start : start + _TOGETHER]
                troubles += score_together(plan, metric, group, digests, load)
                bar.update(len(group))
    return troubles


def _over_cases(
    work: Callable, plan: Plan, keys: list[str], digests: dict[str, str], workers: int, title: str
) -> list[str]:
    troubles = []
    with tqdm(total=len(keys), desc=title, unit="case", disable=not keys) as bar:
        for lines in _spread(work, [(plan, key, digests[key]) for key in keys], workers):
            troubles += lines
            bar.update()
            bar.set_postfix(failed=len(troubles))
    return sorted(troubles)


def _spread(work: Callable, jobs: list[tuple], workers: int) -> Iterator[list[str]]:
    if workers <= 1 or len(jobs) <= 1:
        with _one_thread():
            yield from (work(*job) for job in jobs)
        return
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(min(workers, len(jobs)), context, initializer=torch.set_num_threads, initargs=(1,))
    try:
        for future in as_completed([pool.submit(work, *job) for job in jobs]):
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
