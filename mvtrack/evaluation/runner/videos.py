"""The first stage: one video a method and case, kept without loss, or found where another program left it."""

from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from mvtrack.data.clip import resize_frames
from mvtrack.evaluation.interface import Benchmark, Declined, Inputs, Method, failed
from mvtrack.evaluation.runner.estimates import gather
from mvtrack.evaluation.runner.fault_tolerance import guarded
from mvtrack.evaluation.runner.plan import Plan
from mvtrack.evaluation.runner.records import hash_of_files, pack, read_record, write_record
from mvtrack.video.reader import open_video
from mvtrack.video.video import Video
from mvtrack.video.writer import from_bytes, write_video


def video_is_due(plan: Plan, method: Method, key: str, digest: str) -> bool:
    """Whether a case's video is still to be made, or is to be made again."""
    record = read_record(plan.video_record(method.name, key))
    if record is None or record["key"] != _key_now(plan, method, key, digest):
        return True
    return "video" in record and not (plan.folder / record["video"]).is_file()


def make_video(plan: Plan, method: Method, key: str, digest: str, inputs: Inputs | Declined) -> Declined | None:
    """Make or find one video and write its record; returns why there is none."""
    record = {"key": _key_now(plan, method, key, digest), "inputs": digest}
    made = inputs
    if not isinstance(inputs, Declined):
        made = guarded(lambda: _made_or_found(plan, method, key, digest, inputs), debug=plan.debug)
    record |= {"declined": pack(made)} if isinstance(made, Declined) else made
    write_record(plan.video_record(method.name, key), record)
    return made if isinstance(made, Declined) else None


def _key_now(plan: Plan, method: Method, key: str, digest: str) -> str:
    found = method.find(key)
    if isinstance(found, Path):
        try:
            return plan.video_key(method, digest, _sha(found))
        except (ValueError, OSError) as error:
            return plan.video_key(method, digest, f"unreadable: {error}")
    return plan.video_key(method, digest, None if found is None else found.reason)


def _made_or_found(plan: Plan, method: Method, key: str, digest: str, inputs: Inputs) -> dict | Declined:
    found = method.find(key)
    if isinstance(found, Declined):
        return found
    if found is not None:
        return _as_found(plan, method, key, found, inputs)
    estimates = gather(plan, method.needs, digest, None, inputs, None)
    if isinstance(estimates, Declined):
        return estimates
    video = method.generate(inputs, estimates)
    if isinstance(video, Declined):
        return video
    if video.shape != inputs.reference.shape:
        raise ValueError(f"{method.name} made {tuple(video.shape)} of a reference of {tuple(inputs.reference.shape)}")
    if not torch.isfinite(video).all():
        return failed(f"{method.name} made a video with NaN or infinite values")
    return _kept(plan, method, key, video, inputs.fps, [])


def _as_found(plan: Plan, method: Method, key: str, found: Path, inputs: Inputs) -> dict:
    """The file itself where it is what is scored; else a copy without loss of what is."""
    footage, frames = open_video(found), len(inputs.reference)
    notes = check_found(footage, frames, plan.benchmark, method.settings.get("resize", False))
    if not notes and found.is_file():
        return {"video": str(found.resolve()), "sha256": _sha(found), "frames": frames, "notes": []}
    video = from_bytes(footage.read(0, frames))
    if footage.size != plan.benchmark.size:
        video = resize_frames(video, plan.benchmark.size)
    return _kept(plan, method, key, video, inputs.fps, notes)


def _kept(plan: Plan, method: Method, key: str, video: Tensor, fps: float, notes: list[str]) -> dict:
    path = plan.video_file(method.name, key)
    write_video(path, video, fps, lossless=True)
    return {"video": str(path.relative_to(plan.folder)), "sha256": _sha(path), "frames": len(video), "notes": notes}


def check_found(footage: Video, frames: int, benchmark: Benchmark, resize: bool) -> list[str]:
    """What has to be done to a foreign video of a case of `frames` real frames. ValueError when it does not fit."""
    notes = []
    if footage.size != benchmark.size and not resize:
        raise ValueError(
            f"{footage.path} is {footage.size[0]}x{footage.size[1]}, the benchmark {benchmark.size[0]}x"
            f"{benchmark.size[1]} (height x width): write it at that size, or pass --resize-videos"
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


def read_made(plan: Plan, record: dict) -> Float[Tensor, "T 3 H W"]:
    """The frames of a video that a record names."""
    return from_bytes(open_video(plan.folder / record["video"]).read(0, record["frames"]))


def _sha(path: Path) -> str:
    files = sorted(f for f in path.iterdir() if f.is_file()) if path.is_dir() else [path]
    return hash_of_files(files, [f.name for f in files] if path.is_dir() else None)
