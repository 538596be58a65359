"""Videos: one a method and case, made or found and kept without loss; and small copies that a browser can play."""

from pathlib import Path

import torch
from torch import Tensor

from mvtrack.data.clip import resize_frames
from mvtrack.evaluation.interface import Benchmark, Method, Skipped, failed
from mvtrack.evaluation.runner.case import Case, guarded
from mvtrack.evaluation.runner.plan import Plan
from mvtrack.evaluation.runner.records import hash_of_files, pack, read_record, write_record
from mvtrack.evaluation.runner.scoring import gather
from mvtrack.video.reader import open_video
from mvtrack.video.video import Video
from mvtrack.video.writer import from_bytes, write_video


def methods_due(case: Case) -> list[Method]:
    """The methods whose video of a case is still to be made, or is to be made again."""
    return [method for method in case.plan.methods if _is_due(case, method)]


def generate_case(case: Case) -> list[str]:
    """Make or find the videos that are due; returns what failed, one line each."""
    failures = []
    for method in methods_due(case):
        made = case.inputs
        if not isinstance(made, Skipped):
            made = guarded(lambda m=method: _make(case, m), debug=case.plan.debug)
        outcome = {"declined": pack(made)} if isinstance(made, Skipped) else made
        record = {"key": _key_now(case, method), "inputs": case.digest} | outcome
        write_record(case.plan.video_record(method.name, case.key), record)
        if isinstance(made, Skipped) and made.kind == "failed":
            failures.append(f"{method.name}, {case.key}: {made.reason}")
    return failures


def _is_due(case: Case, method: Method) -> bool:
    record = read_record(case.plan.video_record(method.name, case.key))
    if record is None or record["key"] != _key_now(case, method):
        return True
    return "video" in record and not (case.plan.folder / record["video"]).is_file()


def _key_now(case: Case, method: Method) -> str:
    """The hash of all that a video depends on; of a video that is found, the file's too."""
    found = method.find(case.key)
    source = found.reason if isinstance(found, Skipped) else None
    if isinstance(found, Path):
        sha = guarded(lambda: _sha(found), "unreadable: ")
        source = sha.reason if isinstance(sha, Skipped) else sha
    return case.plan.video_key(method, case.digest, source)


def _make(case: Case, method: Method) -> dict | Skipped:
    found = method.find(case.key)
    if isinstance(found, Skipped):
        return found
    if found is not None:
        return _adopt(case, method, found)
    estimates = gather(case, method.needs)
    if isinstance(estimates, Skipped):
        return estimates
    video = method.generate(case.inputs, estimates)
    if isinstance(video, Skipped):
        return video
    expected = case.inputs.reference.shape
    if video.shape != expected:
        raise ValueError(f"{method.name} made {tuple(video.shape)} of a reference of {tuple(expected)}")
    if not torch.isfinite(video).all():
        return failed(f"{method.name} made a video with NaN or infinite values")
    return _keep(case, method, video, [])


def _adopt(case: Case, method: Method, found: Path) -> dict:
    """The file itself where it is what is scored; else a copy without loss of what is."""
    footage, frames, benchmark = open_video(found), len(case.inputs.reference), case.plan.benchmark
    notes = check_footage(footage, frames, benchmark, method.settings.get("resize", False))
    if not notes and found.is_file():
        return {"video": str(found.resolve()), "sha256": _sha(found), "frames": frames, "notes": []}
    video = from_bytes(footage.read(0, frames))
    if footage.size != benchmark.size:
        video = resize_frames(video, benchmark.size)
    return _keep(case, method, video, notes)


def _keep(case: Case, method: Method, video: Tensor, notes: list[str]) -> dict:
    path = case.plan.video_file(method.name, case.key)
    write_video(path, video, case.inputs.fps, lossless=True)
    name = str(path.relative_to(case.plan.folder))
    return {"video": name, "sha256": _sha(path), "frames": len(video), "notes": notes}


def check_footage(footage: Video, frames: int, benchmark: Benchmark, resize: bool) -> list[str]:
    """What has to be done to a foreign video of a case of `frames` real frames. ValueError when it does not fit."""
    notes = []
    if footage.size != benchmark.size and not resize:
        raise ValueError(
            f"{footage.path} is {footage.size[0]}x{footage.size[1]}, the benchmark {benchmark.size[0]}x"
            f"{benchmark.size[1]} (height x width): write it at that size, or set row.resize_videos"
        )
    if footage.size != benchmark.size:
        notes.append(f"resized from {footage.size[0]}x{footage.size[1]}")
    is_padded = frames < benchmark.num_frames and len(footage) == benchmark.num_frames
    if len(footage) != frames and not is_padded:
        raise ValueError(
            f"{footage.path} has {len(footage)} frames, the reference {frames}: lengths must be equal"
            + (f" (or {benchmark.num_frames}, a padded clip)" if frames < benchmark.num_frames else "")
        )
    if is_padded:
        notes.append(f"{benchmark.num_frames - frames} frames past the end of the real clip are not scored")
    return notes


def _sha(path: Path) -> str:
    files = sorted(f for f in path.iterdir() if f.is_file()) if path.is_dir() else [path]
    return hash_of_files(files, [f.name for f in files] if path.is_dir() else None)


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
