"""Small copies of all videos that a browser can play; each is made once."""

from pathlib import Path

from torch import Tensor

from mvtrack.evaluation.interface import Declined, Inputs
from mvtrack.evaluation.runner.plan import Plan
from mvtrack.evaluation.runner.records import read_record, write_record
from mvtrack.evaluation.runner.scoring import made_video, video_of
from mvtrack.video.writer import write_video

REFERENCE, TARGET = "_reference", "_target"  # beside the methods' names, which start with a letter or digit
_CRF = 18


def preview_file(plan: Plan, who: str, key: str) -> Path:
    return plan.folder / "page" / who / f"{key}.mp4"


def previews_due(plan: Plan, key: str, digest: str) -> list[str]:
    """Whose preview of a case is missing or old: the reference's (and with it the target's), or a method's."""
    due = [] if _is_made(plan, REFERENCE, key, digest) else [REFERENCE]
    for row in plan.rows:
        record = video_of(plan, row, key, digest)
        if record and not _is_made(plan, row, key, record["sha256"]):
            due.append(row)
    return due


def make_previews(plan: Plan, key: str, digest: str, inputs: Inputs | Declined) -> list[str]:
    """Write what is due; returns what failed. A case without inputs has nothing to show."""
    if isinstance(inputs, Declined):
        return []
    troubles = []
    for who in previews_due(plan, key, digest):
        if who == REFERENCE:
            if inputs.target is not None:
                _write(
                    plan, TARGET, key, inputs.target, inputs.fps * len(inputs.target) / len(inputs.reference), digest
                )
            _write(plan, REFERENCE, key, inputs.reference, inputs.fps, digest)
        else:
            record = video_of(plan, who, key, digest)
            video = made_video(plan, record, inputs)
            if isinstance(video, Declined):
                troubles.append(f"{who}, {key}, page: {video.reason}")
            else:
                _write(plan, who, key, video, inputs.fps, record["sha256"])
    return troubles


def _is_made(plan: Plan, who: str, key: str, source: str) -> bool:
    record = read_record(preview_file(plan, who, key).with_suffix(".json"))
    return record is not None and record["key"] == source


def _write(plan: Plan, who: str, key: str, video: Tensor, fps: float, source: str) -> None:
    path = preview_file(plan, who, key)
    write_video(path, video, fps, crf=_CRF)
    write_record(path.with_suffix(".json"), {"key": source})
