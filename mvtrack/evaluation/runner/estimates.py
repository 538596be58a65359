"""Poses, depth and the like, found once in each video and kept by a hash of everything that they depend on."""

import io
import zipfile
import zlib
from pathlib import Path

import numpy as np
import torch

from mvtrack.evaluation.interface import ESTIMATE_NEEDS, Estimate, Estimator, Skipped, Subject, skipped
from mvtrack.evaluation.runner.case import Case, RowVideo
from mvtrack.evaluation.runner.fault_tolerance import guarded
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
