"""From one or more synchronised videos and some points to their tracks: read, fit to the model, follow, write."""

import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path

import torch
from tqdm import tqdm

from mvtrack.config.checked import config
from mvtrack.config.model import ModelConfig
from mvtrack.config.placement import Placement
from mvtrack.config.sizes import FitMode
from mvtrack.config.tree import to_tree
from mvtrack.config.video_reading import VideoReading
from mvtrack.files.atomic_io import new_folder, refuse_existing
from mvtrack.files.cache import sha256
from mvtrack.geometry.camera import Camera
from mvtrack.geometry.presets import PIVOT_M
from mvtrack.inference.camera_estimation.source_cameras import MeasuredSource
from mvtrack.inference.device import place, placed_config
from mvtrack.inference.machine import peak_gib
from mvtrack.inference.memory.check_memory import refuse_inference
from mvtrack.inference.memory.encoders import encoders_of
from mvtrack.inference.memory.forecast import VideoJob, forecast
from mvtrack.inference.memory.inference import Work
from mvtrack.inference.memory.kernel import kernel_of_video
from mvtrack.inference.pipeline import DEFAULT_FOV_DEG, first_frames, model_hash, placement_record, shipped_model
from mvtrack.inference.sampler import SamplerOptions
from mvtrack.inference.tracking.generated_tracks import TrackPlan, progress, refined_tracks, track_notes
from mvtrack.inference.tracking.outputs import write_tracks
from mvtrack.inference.tracking.pipeline import depth_starts, track_points
from mvtrack.inference.tracking.points import points_of_video
from mvtrack.inference.tracking.scene import anchor_pictures, footage_source, require_head
from mvtrack.inference.tracking.subpixel_refine import refined_attention
from mvtrack.inference.tracking.windowed_tracker import FindStarts
from mvtrack.inference.tracking.windows import Windows, aligned_windows
from mvtrack.models.prompts import remember_prompts
from mvtrack.models.reshoot_model import ReshootModel, load_model, read_config
from mvtrack.video.depth_file import DepthFile
from mvtrack.video.reader import open_video
from mvtrack.video.resize import Fit, plan_fit, still_camera
from mvtrack.video.video import Video


@config
class TrackOptions:
    """How videos meet the model. cameras: of every video (T,) at its own size, in one world; None: all stand still at
    one place, `fov_deg` wide. subject_distance: of the scene in the first view, in the cameras' unit. fit, size: see
    `plan_fit`; with `pad` every pixel of the videos can be followed. measured: how the only video's cameras were
    measured, or why they were not. caption: of the scene, for models that take captions. reading: how files are read.
    by_flow: refine tracks on the videos' own pixels.
    """

    cameras: tuple[Camera, ...] | None = None
    fov_deg: float = DEFAULT_FOV_DEG
    subject_distance: float = PIVOT_M
    fit: FitMode = "pad"
    size: tuple[int, int] | None = None
    measured: MeasuredSource | None = None
    caption: str | None = None
    reading: VideoReading = VideoReading()
    by_flow: bool = True


@dataclass(frozen=True)
class TrackOutputs:
    """files: tracks.npz, tracks.csv, a video per view and, of several views, one side by side. run: run.json."""

    folder: Path
    files: tuple[Path, ...]
    run: Path
    notes: tuple[str, ...]


def track_files(
    videos: list[Path | str], plan: TrackPlan | str, model: ReshootModel | Path | str | None = None,
    out: Path | str | None = None, options: TrackOptions | None = None, overwrite: bool = False,
    placement: Placement | None = None, check_memory: bool = True, say: Callable[[str], None] | None = None,
    warn: Callable[[str], None] | None = None,
) -> TrackOutputs:  # fmt: skip
    """Follow points of the first video through all videos, which show one scene at the same moments.

    plan: the points as `--tracks` names them. model: one with a tracking head, its folder, or None for the shipped one.
    out: folder to create, default outputs/<first video>_tracks. placement: where a model from a folder works.
    check_memory, say, warn: see `reshoot_file`. Raises ValueError before anything is written when the input cannot be
    used; nothing half-written stays behind.
    """
    began, options = time.monotonic(), options or TrackOptions()
    plan = TrackPlan(plan) if isinstance(plan, str) else plan
    paths = [Path(video) for video in videos]
    out = Path(out) if out else Path("outputs") / f"{paths[0].stem}_tracks"
    refuse_existing(out, overwrite, *paths, plan.depth)
    source = "given" if isinstance(model, ReshootModel) else str(model or shipped_model(tracking=True))
    placement = placement or Placement()
    config = model.config if isinstance(model, ReshootModel) else placed_config(read_config(source), placement)
    footage = _open_together(paths, options.reading)
    fits = _fits(footage, config, options)
    windows = aligned_windows(len(footage[0]), config.num_frames)
    if not isinstance(model, ReshootModel):
        kernel = kernel_of_video(config, fits[0].model, len(footage[0]), placement, len(footage))
        if say:
            say(f"attention kernel: {kernel}")
        work = Work(encoders_of(config, [options.caption]), len(footage), decodes=False)
        if check_memory:
            refuse_inference(config, fits[0].model, len(footage[0]), SamplerOptions(1), placement, work)
        job = VideoJob(fits[0].model, len(footage[0]), footage[0].size, None, SamplerOptions(1), work)
        if warn and (ahead := forecast(config, [job], placement)):
            warn(ahead)
        pictures = first_frames(windows.spans, footage[0], fits[0])
        remember_prompts(config, [options.caption], pictures, placement.encoder_device)
        model = place(load_model(source), placement)
    tracker = require_head(model)
    camera = _cameras(footage, fits, options)
    points = points_of_video(plan.points, footage[0], fits[0])
    find_starts = _find_starts(plan, footage, fits, camera, windows, options)
    scene = footage_source(model, footage, fits, camera, windows, options.subject_distance, options.caption)
    with tqdm(desc="tracking", unit="window") as bar:
        tracks = track_points(tracker, scene, points, footage[0], fits, find_starts, progress(bar))
    if options.by_flow:
        tracks = refined_tracks(tracks, footage)
    notes = [*_notes(footage, options), *fits[0].notes, *track_notes(points.notes, tracks)]
    record = _record(footage, fits, options, notes) | {
        "model": {"source": source, "sha256": model_hash(source), "config": to_tree(model.config)},
        "tracks": plan.record() | {"count": len(points.names)},
        "placement": placement_record(placement, model),
    }
    with new_folder(out, overwrite, *paths, plan.depth) as aside:
        files = write_tracks(aside, tracks, dict(zip(_names(paths), footage, strict=True)))
        record["attention"] = model.dit.chosen_kernels
        record["peak_memory_gib"] = round(peak_gib(model.device), 3)
        record["seconds"] = round(time.monotonic() - began, 3)
        (aside / "run.json").write_text(json.dumps(record, indent=1))
    return TrackOutputs(out, tuple(out / path.name for path in files), out / "run.json", tuple(notes))


def _record(footage: list[Video], fits: list[Fit], options: TrackOptions, notes: list[str]) -> dict:
    """What run.json says of the videos and how they were read."""
    inputs = [
        {"file": str(film.path), "sha256": sha256(film.path), "frames": len(film), "fps": film.fps,
         "fit": asdict(fit)}
        for film, fit in zip(footage, fits, strict=True)
    ]  # fmt: skip
    cameras = f"still, {options.fov_deg:g} degrees wide"
    if options.cameras:
        cameras = "measured" if options.measured else "given"
    return {
        "command": "track",
        "mvtrack": metadata.version("mvtrack"),
        "torch": torch.__version__,
        "inputs": inputs,
        "cameras": cameras,
        **({"measured": options.measured.record} if options.measured else {}),
        "subject_distance": options.subject_distance,
        **({} if options.caption is None else {"caption": options.caption}),
        "notes": notes,
    }


def _open_together(paths: list[Path], reading: VideoReading) -> list[Video]:
    footage = [open_video(path, fps=reading.fps, damaged=reading.damaged, decode_all=True) for path in paths]
    for other in footage[1:]:
        if len(other) != len(footage[0]):
            raise ValueError(
                f"{other.path} has {len(other)} frames, {footage[0].path} has {len(footage[0])}: videos of "
                "one scene must show the same moments; cut them to the same frames first"
            )
    return footage


def _fits(footage: list[Video], config: ModelConfig, options: TrackOptions) -> list[Fit]:
    """All views meet the same picture of the model: the one that suits the first video."""
    first = plan_fit(footage[0].size, config, options.fit, options.size)
    return [first, *(plan_fit(film.size, config, options.fit, first.model) for film in footage[1:])]


def _cameras(footage: list[Video], fits: list[Fit], options: TrackOptions) -> Camera:
    """(V, T) for the model's picture."""
    given = options.cameras or [still_camera(options.fov_deg, film.size, len(film)) for film in footage]
    if len(given) != len(footage):
        raise ValueError(f"{len(given)} cameras were given for {len(footage)} videos: give one of each")
    for camera, film in zip(given, footage, strict=True):
        if camera.shape != (len(film),) or camera.size != film.size:
            raise ValueError(
                f"the cameras of {film.path} are for {camera.shape[0]} frames of {camera.size}, it has "
                f"{len(film)} of {film.size}"
            )
    fitted = [fit.camera(camera) for fit, camera in zip(fits, given, strict=True)]
    return Camera.stack(fitted).to(dtype=torch.float32)


def _find_starts(
    plan: TrackPlan, footage: list[Video], fits: list[Fit], camera: Camera, windows: Windows, options: TrackOptions
) -> FindStarts:
    if plan.depth is None:
        known = None if options.cameras is None else (lambda window: camera[:, windows.anchors(window)])
        return refined_attention(anchor_pictures(footage, fits, windows), known)
    if len(footage) == 1:
        raise ValueError("--depth finds points in other views: give more than one video, or leave it out")
    if options.cameras is None:
        raise ValueError("--depth projects points into the other views: give --cameras too, one file per video")
    depth = DepthFile(plan.depth, footage[0])
    return depth_starts(lambda frame: depth.read(frame, fits[0]), camera, windows, len(footage))


def _notes(footage: list[Video], options: TrackOptions) -> list[str]:
    notes = [note for film in footage for note in film.notes]
    notes += options.measured.notes if options.measured else ()
    notes += [
        f"{film.path} runs at {film.fps:g} frames per second, {footage[0].path} at {footage[0].fps:g}: frames are "
        "taken as simultaneous by their number"
        for film in footage[1:]
        if abs(film.fps / footage[0].fps - 1) > 0.01
    ]
    if len(footage) > 1 and options.cameras is None:
        notes.append("no cameras were given: all views are taken to stand at one place, which finds fewer points")
    return notes


def _names(paths: list[Path]) -> list[str]:
    """A name per view for its files: the video's own, with a number where several share it."""
    stems = [path.stem for path in paths]
    return [f"{stem}_{i}" if stems.count(stem) > 1 else stem for i, stem in enumerate(stems)]
