"""Many videos at once: a folder of them, or a CSV that says what to do with each. Finished ones are not done again."""

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from jaxtyping import Float
from torch import Tensor

from mvtrack.config.command_line import with_text
from mvtrack.config.errors import is_out_of_memory, out_of_memory
from mvtrack.config.model import ModelConfig
from mvtrack.config.placement import Placement
from mvtrack.files.atomic_io import write_aside
from mvtrack.files.cache import sha256
from mvtrack.inference.device import place, placed_config
from mvtrack.inference.full_resolution.region import plan_region
from mvtrack.inference.job_table import read_table
from mvtrack.inference.memory.check_memory import refuse_inference
from mvtrack.inference.memory.encoders import encoders_of
from mvtrack.inference.memory.forecast import VideoJob, forecast, settled
from mvtrack.inference.memory.inference import Work
from mvtrack.inference.memory.kernel import kernel_of_video
from mvtrack.inference.model_options import LESS_MEMORY
from mvtrack.inference.pipeline import (
    Shot,
    first_frames,
    model_hash,
    placement_record,
    reshoot_file,
    shipped_model,
    shot_record,
    with_window,
)
from mvtrack.inference.ray_pool import run_tasks
from mvtrack.inference.sampler import SamplerOptions, window_spans
from mvtrack.inference.shot_options import check_moves
from mvtrack.models.prompts import Captions, remember_prompts
from mvtrack.models.reshoot_model import ReshootModel, load_model, read_config
from mvtrack.video.images import images_in
from mvtrack.video.reader import open_video, videos_in
from mvtrack.video.resize import Fit, plan_fit
from mvtrack.video.video import Video

_CHANGES_PIXELS = ("precision", "vae_precision", "quantize", "lora", "encoders")  # of a placement; the rest rounds


@dataclass(frozen=True)
class Job:
    """One video of a batch. options: a `ReshootCommand`. where: the CSV line or the file, for messages."""

    video: Path
    out: Path
    options: Any
    sample: SamplerOptions
    where: str


def is_batch(path: Path) -> bool:
    """Whether a path names many videos: a CSV, or a folder with video files in it.

    Raises ValueError for a folder that holds videos and images, where either could be meant.
    """
    if path.suffix.lower() == ".csv":
        return True
    if not path.is_dir():
        return False
    videos = bool(videos_in(path))
    if videos and images_in(path):
        raise ValueError(f"folder {path} holds videos and images: move one kind away, or name the videos in a CSV")
    return videos


def reshoot_batch(options: Any, shot_of: Callable[[Any, Path], Shot], say: Callable[[str], None]) -> None:
    """Re-shoot all videos; go on after failures and name them at the end. Writes batch.json beside the results.

    options: a `ReshootCommand`, whose video is the batch. shot_of: makes the shot of one video. Raises ValueError when
    any video failed, after all were tried.
    """
    out = options.out or Path("outputs") / options.video.stem
    folder = Path(options.model) if options.model else shipped_model(bool(options.points.tracks))
    config = with_window(placed_config(read_config(folder), options.placement), options.window)
    jobs = _jobs(options, out, config)
    folders = [job.out for job in jobs]
    for job in jobs:
        if folders.count(job.out) > 1:
            raise ValueError(f"{job.where}: several videos would be written to {job.out}; give them an `out` each")
    kernel = _check(config, jobs, options)
    if options.verbose:
        say(f"attention kernel: {kernel}")
    todo = list(_videos(config, [job for job in jobs if job.options.overwrite or not (job.out / "run.json").exists()]))
    if todo and (ahead := forecast(config, todo, options.placement)):
        say(ahead)
    make = partial(_reshooter, config, jobs, folder, settled(config, todo, options.placement), shot_of)
    results = []
    out.mkdir(parents=True, exist_ok=True)
    for job, (status, reason) in run_tasks(make, jobs, options.cluster):
        results.append({"video": str(job.video), "out": str(job.out), "status": status, "reason": reason})
        sys.stdout.write(f"{status}: {job.out}{f' ({reason})' if reason else ''}\n")
        write_aside(out / "batch.json", lambda aside: aside.write_text(json.dumps(results, indent=1)))
    failed = [r for r in results if r["status"] == "failed"]
    if failed:
        raise ValueError(f"{len(failed)} of {len(results)} videos failed; the first: {failed[0]['reason']}")


def _check(config: ModelConfig, jobs: list[Job], options: Any) -> str:
    """The attention kernel. Raises ValueError where it or memory will not do for a video of any size to be made."""
    wanted, work = options.shot.size, Work(encoders_of(config, _captions(jobs)))
    sample = next((job.sample for job in jobs if job.sample.guidance != 1), jobs[0].sample)
    for size in [wanted] if wanted else config.sizes:
        picture = plan_fit(size, config, size=size).model
        kernel = kernel_of_video(config, picture, config.num_frames, options.placement)
        if not options.ignore_memory:
            refuse_inference(config, picture, config.num_frames, sample, options.placement, work)
    return kernel


def _captions(jobs: list[Job]) -> list[str | None]:
    """All captions that the videos need."""
    shots = [(job.options.sampling, job.sample.guidance) for job in jobs]
    needed = [Captions(sampling.caption, sampling.negative, guidance).texts for sampling, guidance in shots]
    return [caption for each in needed for caption in each]


def _videos(config: ModelConfig, jobs: list[Job]) -> Iterator[VideoJob]:
    """What each video is made of; one that cannot be read says so when its turn comes."""
    for job in jobs:
        with suppress(ValueError, OSError):
            footage, fit = _opened(config, job)
            region = plan_region(fit, job.options.resolution)
            work = Work(encoders_of(config, _captions([job])))
            result = None if region is None else region.size
            yield VideoJob(fit.model, len(footage), footage.size, result, job.sample, work)


def _opened(config: ModelConfig, job: Job) -> tuple[Video, Fit]:
    shot = job.options.shot
    footage = open_video(job.video, fps=shot.reading.fps, damaged=shot.reading.damaged)
    return footage, plan_fit(footage.size, config, shot.fit, shot.size)


def _pictures(config: ModelConfig, jobs: list[Job]) -> Iterator[Float[Tensor, "3 H W"]]:
    """First frames of all videos' windows; a video that cannot be read says so when its turn comes."""
    for job in jobs:
        with suppress(ValueError, OSError):
            footage, fit = _opened(config, job)
            yield from first_frames(window_spans(config, len(footage)), footage, fit)


def _reshooter(
    config: ModelConfig, jobs: list[Job], folder: Path, placement: Placement, shot_of: Callable[[Any, Path], Shot]
) -> Callable[[Job], tuple[str, str | None]]:
    """What re-shoots one video. jobs: all that are to come, whose captions and pictures are encoded first."""
    remember_prompts(config, _captions(jobs), _pictures(config, jobs), placement.encoder_device)
    model = place(load_model(folder), placement)
    return lambda job: _do(job, shot_of, model, folder)


def _do(
    job: Job, shot_of: Callable[[Any, Path], Shot], model: ReshootModel, model_folder: Path
) -> tuple[str, str | None]:
    try:
        shot = shot_of(job.options, job.video)
        record = job.out / "run.json"
        if record.exists() and not job.options.overwrite:
            how = placement_record(job.options.placement, model)
            digests = [model_hash(str(model_folder)), sha256(job.video)]
            wanted = json.loads(json.dumps([*digests, shot_record(shot), *map(how.get, _CHANGES_PIXELS)]))
            return _done_before(record, wanted)
        reshoot_file(
            job.video, shot.path, model, job.out, shot, job.options.overwrite, job.options.placement,
            check_memory=not job.options.ignore_memory, weights=model_folder,
        )  # fmt: skip
    except (ValueError, OSError) as error:
        return "failed", f"{job.where}: {error}"
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        return "failed", f"{job.where}: {out_of_memory(error, LESS_MEMORY)}"
    return "done", None


def _done_before(record: Path, wanted: list) -> tuple[str, str | None]:
    """Of a result that is there. wanted: digests of weights and video, the shot, and what changes pixels."""
    try:
        before = json.loads(record.read_text())
        how = before["placement"]
        found = [before["model"]["sha256"], before["input"]["sha256"], before["shot"], *map(how.get, _CHANGES_PIXELS)]
    except (ValueError, LookupError, TypeError, AttributeError):
        found = []
    if found == wanted and None not in found[:2]:
        return "done before", None
    held = "another shot" if found else "something else"
    return "failed", f"{record.parent} holds {held}: pass --overwrite, or choose another folder"


def _jobs(options: Any, out: Path, config: ModelConfig) -> list[Job]:
    if options.video.suffix.lower() == ".csv":
        return _jobs_of_csv(options, out, config)
    _check_camera(options, options.video, options.video)
    files = videos_in(options.video)
    stems = [file.stem for file in files]
    names = [file.stem if stems.count(file.stem) == 1 else file.name for file in files]
    sample = options.sampling.of(config)
    return [Job(file, out / name, options, sample, str(file)) for file, name in zip(files, names, strict=True)]


def _jobs_of_csv(options: Any, out: Path, config: ModelConfig) -> list[Job]:
    """Rows need `video`; other columns replace the options of the command line where they are not empty."""
    jobs = []
    for number, row in read_table(options.video):
        where = f"{options.video} line {number}"
        video = options.video.parent / row.pop("video")
        folder = out / row.pop("out", f"{video.stem}_{number - 1:04d}")
        try:
            own = with_text(options, row)
        except ValueError as error:
            raise ValueError(f"{where}: {error}") from error
        _check_camera(own, where, video)
        jobs.append(Job(video, folder, own, own.sampling.of(config), where))
    return jobs


def _check_camera(options: Any, where: object, video: Path) -> None:
    if options.shot.camera is None:
        raise ValueError(f"{where}: give the path as --camera, or in a column `camera` of a table")
    try:
        check_moves(options.shot, video)
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from error
