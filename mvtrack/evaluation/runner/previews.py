"""Small copies of all videos that a browser can play; each is made once."""

from pathlib import Path

from torch import Tensor

from mvtrack.evaluation.interface import Skipped
from mvtrack.evaluation.runner.case import Case
from mvtrack.evaluation.runner.fault_tolerance import guarded
from mvtrack.evaluation.runner.plan import Plan
from mvtrack.evaluation.runner.records import read_record, write_record
from mvtrack.video.writer import write_video

REFERENCE, TARGET = "_reference", "_target"  # beside the methods' names, which start with a letter or digit
_CRF = 18


def preview_file(plan: Plan, who: str, key: str) -> Path:
    return plan.folder / "page" / who / f"{key}.mp4"


def previews_due(case: Case) -> list[str]:
    """Whose preview of a case is missing or old: the reference's (and with it the target's), or a row's."""
    due = [] if _is_made(case, REFERENCE, case.digest) else [REFERENCE]
    return due + [video.row for video in case.videos() if not _is_made(case, video.row, video.sha256)]


def preview_case(case: Case) -> list[str]:
    """Write what is due; returns what failed, one line each. A case without inputs has nothing to show."""
    if isinstance(case.inputs, Skipped):
        return []
    failures = guarded(lambda: _write_due(case), f"{case.key}, page: ", case.plan.debug)
    return [failures.reason] if isinstance(failures, Skipped) else failures


def _write_due(case: Case) -> list[str]:
    failures, inputs = [], case.inputs
    for who in previews_due(case):
        if who == REFERENCE:
            if inputs.target is not None:
                fps = inputs.fps * len(inputs.target) / len(inputs.reference)
                _write(case, TARGET, inputs.target, fps, case.digest)
            _write(case, REFERENCE, inputs.reference, inputs.fps, case.digest)
            continue
        video = case.video(who)
        if isinstance(video.frames, Skipped):
            failures.append(f"{who}, {case.key}, page: {video.frames.reason}")
        else:
            _write(case, who, video.frames, inputs.fps, video.sha256)
    return failures


def _is_made(case: Case, who: str, source: str) -> bool:
    record = read_record(preview_file(case.plan, who, case.key).with_suffix(".json"))
    return record is not None and record["key"] == source


def _write(case: Case, who: str, video: Tensor, fps: float, source: str) -> None:
    path = preview_file(case.plan, who, case.key)
    write_video(path, video, fps, crf=_CRF)
    write_record(path.with_suffix(".json"), {"key": source})
