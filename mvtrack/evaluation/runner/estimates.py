"""Poses, depth and the like, found once in each video and kept by a hash of everything that they depend on."""

import io
import zipfile
import zlib
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from mvtrack.evaluation.interface import (
    ESTIMATE_NEEDS,
    Declined,
    Estimate,
    Estimator,
    Inputs,
    RowEstimator,
    Subject,
    skipped,
)
from mvtrack.evaluation.runner.fault_tolerance import guarded
from mvtrack.evaluation.runner.plan import Plan
from mvtrack.evaluation.runner.records import pack, read_record, unpack, write_record
from mvtrack.files.atomic_io import write_aside


def gather(
    plan: Plan,
    needs: tuple[str, ...],
    digest: str,
    video_sha: str | None,
    inputs: Inputs,
    video: Float[Tensor, "T 3 H W"] | None,
    row: str | None = None,
) -> dict[str, Estimate] | Declined:
    """All estimates among `needs`, made where they are not yet; the first input or estimate that is lacking else.

    row: the method whose video it is, None for the reference's estimates.
    """
    for need in needs:
        if need not in ESTIMATE_NEEDS and (why := inputs.why_missing(need)):
            return why
    found = {}
    for need in needs:
        if need in ESTIMATE_NEEDS:
            found[need] = _estimate(plan, need, digest, video_sha, inputs, video, row)
            if isinstance(found[need], Declined):
                return found[need]
    return found


def is_estimated(plan: Plan, need: str, digest: str, video_sha: str | None) -> bool:
    """Whether there is nothing to do for an estimate: it is kept, or nothing here can make it."""
    estimator = plan.estimators.get(need.split(".")[1])
    if estimator is None or estimator.missing():
        return True
    path = plan.estimate_file(estimator, plan.estimate_key(need, digest, video_sha))
    record = read_record(path.with_suffix(".json"))
    return record is not None and ("declined" in record or path.is_file())


def _estimate(
    plan: Plan,
    need: str,
    digest: str,
    video_sha: str | None,
    inputs: Inputs,
    video: Tensor | None,
    row: str | None,
) -> Estimate | Declined:
    subject, what = need.split(".")
    estimator = plan.estimators.get(what)
    if estimator is None:
        return skipped(f"missing an estimator of {what}")
    lacking = estimator.missing()
    if lacking:
        return skipped(f"missing {lacking}")
    key = plan.estimate_key(need, digest, video_sha)
    path = plan.estimate_file(estimator, key)
    record = read_record(path.with_suffix(".json"))
    if record and record["key"] == key:
        if "declined" in record:
            return unpack(record["declined"])
        if kept := _read(path):
            return kept
    if row is not None and isinstance(estimator, RowEstimator):
        estimator = estimator.of_row(row)
    result = _run(plan, estimator, subject, inputs, video)
    record = {"key": key, "estimator": estimator.name, "subject": subject, "case": inputs.key}
    if isinstance(result, Declined):
        record["declined"] = pack(result)
    else:
        _write(path, result)
    write_record(path.with_suffix(".json"), record)
    return result


def _run(
    plan: Plan, estimator: Estimator, subject: Subject, inputs: Inputs, video: Tensor | None
) -> Estimate | Declined:
    for need in estimator.needs:
        if why := inputs.why_missing(need):
            return why
    frames = {"reference": [inputs.reference], "generated": [video], "joint": [inputs.reference, video]}[subject]
    seen = "reference and generated videos" if subject == "joint" else f"{subject} video"
    about = f"{estimator.name}, {seen}: "
    return guarded(lambda: estimator.estimate(inputs, torch.cat(frames), subject), about, plan.debug)


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
