"""From a video file to a re-shot video file: read, fit to the model, generate, write what was done. All in a stream."""

import hashlib
import json
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, nullcontext
from dataclasses import asdict, dataclass, replace
from importlib import metadata, resources
from pathlib import Path

import torch
from jaxtyping import Float, Shaped
from torch import Tensor
from tqdm import tqdm

from mvtrack.config.checked import config
from mvtrack.config.model import ModelConfig
from mvtrack.config.placement import Placement
from mvtrack.config.sizes import FitMode
from mvtrack.config.tree import to_tree
from mvtrack.config.video_reading import VideoReading
from mvtrack.data.clip import padded_length
from mvtrack.data.visualize.panels import side_by_side
from mvtrack.files.atomic_io import new_folder, refuse_existing
from mvtrack.files.cache import sha256, sha256_once
from mvtrack.geometry.camera import Camera
from mvtrack.geometry.keyframe_path import PosePath
from mvtrack.geometry.path_language import parse_path
from mvtrack.geometry.trajectory import CameraMotion, moved_along, passing_notes
from mvtrack.inference.camera_estimation.source_cameras import MeasuredSource
from mvtrack.inference.device import place, placed_config
from mvtrack.inference.full_resolution.plan import FullPlan, plan_full_resolution
from mvtrack.inference.full_resolution.region import Resolution, resized
from mvtrack.inference.machine import peak_gib
from mvtrack.inference.memory.aligned import AlignerSize
from mvtrack.inference.memory.check_memory import refuse_inference
from mvtrack.inference.memory.encoders import encoders_of
from mvtrack.inference.memory.forecast import VideoJob, forecast, settled
from mvtrack.inference.memory.inference import Work
from mvtrack.inference.memory.kernel import kernel_of_video
from mvtrack.inference.sampler import Callbacks, LongVideo, SamplerOptions, generate_stream, window_spans
from mvtrack.inference.tracking.generated_tracks import GeneratedTracks, TrackPlan
from mvtrack.inference.trained_range import range_notes
from mvtrack.models.decoder.decode_aligned import AlignedDecoding
from mvtrack.models.decoder.depth import refuse_wrong_unit
from mvtrack.models.decoder.files import load_aligner
from mvtrack.models.prompts import Captions, Prompts, window_prompts
from mvtrack.models.reshoot_model import ReshootModel, load_model, model_file, read_config
from mvtrack.video.depth_file import DepthFile, is_depth_file
from mvtrack.video.reader import open_video
from mvtrack.video.resize import Fit, plan_fit, still_camera
from mvtrack.video.sound import copy_audio
from mvtrack.video.video import Video
from mvtrack.video.writer import VideoWriter, to_bytes

DEFAULT_FOV_DEG = 50.0
_SIDE_BY_SIDE_HEIGHT = 480  # at most


@config
class Shot:
    """What to do with a video.

    path: the camera path, relative to the source's first frame. source: the source's own cameras (T,) at its own size
    where known; else it is taken as still, with the horizontal field of view `fov_deg`. fit, size: see `plan_fit`.
    sample: None is what the model is meant for. tracks: points to follow through the source and the result.
    measured: how `source` was measured, or why it was not. caption, negative: see `make_prompts`. window: frames that
    are made at once, 4n + 1; None is the number that the model was trained at. decoder: folder of an aligning decoder,
    with which the result is decoded a second time. depth: of the source, a file, or a depth network's id; None: it is
    estimated. source_notes: what was done to make a file's cameras those of the source. resolution: of the result, see
    `plan_region`. reading: how the video file is read.
    """

    path: CameraMotion
    fov_deg: float = DEFAULT_FOV_DEG
    source: Camera | None = None
    fit: FitMode = "auto"
    size: tuple[int, int] | None = None
    sample: SamplerOptions | None = None
    tracks: TrackPlan | None = None
    measured: MeasuredSource | None = None
    caption: str | None = None
    negative: str | None = None
    window: int | None = None
    decoder: Path | None = None
    depth: Path | str | None = None
    source_notes: tuple[str, ...] = ()
    resolution: Resolution = "source"
    reading: VideoReading = VideoReading()

    @property
    def captions(self) -> Captions:
        """What the model's text encoder gets; `sample` is known."""
        return Captions(self.caption, self.negative, self.sample.guidance)

    @property
    def notes(self) -> tuple[str, ...]:
        """What happened to the source's cameras, in words."""
        return (*self.source_notes, *(self.measured.notes if self.measured else ()))


@dataclass(frozen=True)
class Outputs:
    """The files of one re-shoot."""

    folder: Path
    video: Path
    side_by_side: Path
    cameras: Path
    run: Path
    notes: tuple[str, ...] = ()  # what had to be done to the input
    tracks: tuple[Path, ...] = ()  # where points were asked for: tracks.npz, tracks.csv and videos


@dataclass(frozen=True)
class _Job:
    """A shot with everything it needs, checked."""

    shot: Shot
    footage: Video
    fit: Fit
    cameras: Camera  # (2, T) for the model's picture
    model: ReshootModel
    prompts: list[Prompts]  # of every window
    tracks: GeneratedTracks | None
    aligned: AlignedDecoding | None
    plan: FullPlan


def shipped_model(tracking: bool = False) -> Path:
    """Folder of the tiny model that comes with the package. tracking: of the one that also follows points."""
    name = "tiny_tracking" if tracking else "tiny"
    return Path(str(resources.files("mvtrack").joinpath("shipped", name)))


def shipped_decoder() -> Path:
    """Folder of the aligning decoder that comes with the package, for the tiny models."""
    return Path(str(resources.files("mvtrack").joinpath("shipped", "tiny_decoder")))


def reshoot_file(
    video: Path | str, camera: str | CameraMotion, model: ReshootModel | Path | str | None = None,
    out: Path | str | None = None, shot: Shot | None = None, overwrite: bool = False,
    placement: Placement | None = None, check_memory: bool = True, say: Callable[[str], None] | None = None,
    warn: Callable[[str], None] | None = None, weights: Path | str | None = None,
) -> Outputs:  # fmt: skip
    """Re-shoot a video, GIF or image folder along a camera path and write the results to a new folder.

    camera: a preset's name, a path in the path language, or a path object. model: a model (where it was `place`d), its
    folder, or None for the shipped one. out: folder to create, default outputs/<video>_<path>. placement: where and how
    a model from a folder works. check_memory: refuse what will not fit. say: gets a line that names the attention
    kernel, before anything is loaded. warn: gets what a video that takes long, or has a size the model never saw, will
    take. weights: where a model that is given came from, for the record. Raises ValueError before anything is written
    when the input cannot be used; nothing half-written stays behind.
    """
    path = parse_path(camera) if isinstance(camera, str) else camera
    shot = replace(shot, path=path) if shot else Shot(path)
    video, placement = Path(video), placement or Placement()
    out = Path(out) if out else Path("outputs") / f"{video.stem}_{path.label}"
    refuse_existing(out, overwrite, video, shot.depth)
    source = str(weights or "given" if isinstance(model, ReshootModel) else model or shipped_model(bool(shot.tracks)))
    config = model.config if isinstance(model, ReshootModel) else placed_config(read_config(source), placement)
    config = with_window(config, shot.window)
    shot = replace(shot, sample=shot.sample or SamplerOptions.of(config))
    footage = open_video(video, fps=shot.reading.fps, damaged=shot.reading.damaged, decode_all=True)
    fit = plan_fit(footage.size, config, shot.fit, shot.size)
    cameras = shot_cameras(shot, footage, fit)
    aligned = None if shot.decoder is None else aligned_decoding(shot, config, footage, fit, cameras)
    plan = plan_full_resolution(
        shot.resolution, shot.depth, footage, fit, cameras, shot.path.pivot_m, shot.source is not None, shot.reading
    )
    if not isinstance(model, ReshootModel):
        kernel = kernel_of_video(config, fit.model, len(footage), placement)
        if say:
            say(f"attention kernel: {kernel}")
        work = Work(encoders_of(config, shot.captions.texts), aligner=aligned and AlignerSize.of(aligned.aligner))
        if check_memory:
            refuse_inference(config, fit.model, len(footage), shot.sample, placement, work)
        result = None if plan.region is None else plan.region.size
        job = VideoJob(fit.model, len(footage), footage.size, result, shot.sample, work)
        if warn and (ahead := forecast(config, [job], placement)):
            warn(ahead)
        placement = settled(config, [job], placement)
    prompts = shot_prompts(shot, config, footage, fit, placement)  # first, so that the encoders are gone when it loads
    if not isinstance(model, ReshootModel):
        model = place(load_model(source), placement)
    model = replace(model, config=config)
    shown = None if plan.region is None else plan.region.result_fit()
    tracks = shot.tracks and GeneratedTracks(
        shot.tracks, model, footage, fit, cameras, shot.path.pivot_m, prompts, shown
    )
    beyond = range_notes(config, cameras, shot.path.pivot_m)
    notes = [*footage.notes, *fit.notes, *path_notes(shot.path, len(footage)), *shot.notes, *beyond, *plan.notes]
    record = {
        "command": "reshoot",
        "mvtrack": metadata.version("mvtrack"),
        "torch": torch.__version__,
        "input": {
            "file": str(video), "sha256": sha256(video), "frames": len(footage), "fps": footage.fps,
            "notes": notes,
        },
        "fit": asdict(fit),
        "model": {"source": source, "sha256": model_hash(source), "config": to_tree(config)},
        "shot": shot_record(shot),
        "placement": placement_record(placement, model),
    }  # fmt: skip
    if plan.full:
        record["full_resolution"] = {"geometry": plan.geometry, "box": plan.region.box, "size": plan.region.size}
    return _write(out, _Job(shot, footage, fit, cameras, model, prompts, tracks, aligned, plan), record, overwrite)


def with_window(config: ModelConfig, window: int | None) -> ModelConfig:
    """A model that makes so many frames at once. Raises ValueError for other lengths than 4n + 1."""
    if window is None:
        return config
    if window < 1 or padded_length(window) != window:
        raise ValueError(f"--window must be 4n + 1 frames, such as 81 or 121, got {window}")
    return replace(config, num_frames=window)


def aligned_decoding(shot: Shot, config: ModelConfig, footage: Video, fit: Fit, cameras: Camera) -> AlignedDecoding:
    """With the decoder of a shot. Raises ValueError for one of another codec, or depth that cannot be used."""
    aligner = load_aligner(shot.decoder, config.codec)
    if not is_depth_file(shot.depth):
        return AlignedDecoding(aligner)
    depth = DepthFile(Path(shot.depth), footage)
    refuse_wrong_unit(depth.read(0, fit), cameras, shot.path.pivot_m, str(shot.depth))
    return AlignedDecoding(aligner, {0: lambda frame: depth.read(frame, fit)})


def shot_prompts(shot: Shot, config: ModelConfig, footage: Video, fit: Fit, placement: Placement) -> list[Prompts]:
    """Of every window of a shot."""
    spans, frames = window_spans(config, len(footage)), None
    if config.dit.image_dim:
        frames = torch.stack(list(first_frames(spans, footage, fit)))
    prompts = window_prompts(config, frames, shot.captions, placement.encoder_device)
    return prompts if len(prompts) == len(spans) else prompts * len(spans)


def first_frames(spans: Sequence[tuple[int, int]], footage: Video, fit: Fit) -> Iterator[Float[Tensor, "3 H W"]]:
    """Of every window, as the model's picture."""
    for start, _ in spans:
        yield fit.apply(footage.read(start, start + 1, fit.scaled))[0]


def shot_cameras(shot: Shot, footage: Video, fit: Fit) -> Camera:
    """(2, T): the source's cameras and the path's, for the model's picture. What preview and render both use."""
    frames = len(footage)
    source = shot.source or still_camera(shot.fov_deg, footage.size, frames)
    if source.shape != (frames,) or source.size != footage.size:
        raise ValueError(
            f"source cameras are for {source.shape[0]} frames of {source.size}, {footage.path} has {frames} of "
            f"{footage.size}"
        )
    return fit.camera(Camera.stack([source, moved_along(source, shot.path)])).to(dtype=torch.float32)


def path_notes(path: CameraMotion, num_frames: int) -> list[str]:
    """What a path of poses needs to fit a video, in words (paths of moves fit any length), and what it runs into."""
    notes = path.notes(num_frames) if isinstance(path, PosePath) else []
    return notes + passing_notes(path)


def placement_record(placement: Placement, model: ReshootModel) -> dict:
    """Where and how a model works, as plain values."""
    return placement.record() | {"precision": str(model.dit.dtype).removeprefix("torch.")}


def shot_record(shot: Shot) -> dict:
    """A shot as plain values."""
    path = {k: v.tolist() if isinstance(v, Tensor) else v for k, v in asdict(shot.path).items()}
    record = {
        "path": path | {"label": shot.path.label},
        "source": "given" if shot.source else f"still, {shot.fov_deg:g} degrees wide",
        "subject_distance": shot.path.pivot_m,
        "sample": shot.sample.record,
        "fit": shot.fit,
        "size": shot.size,
        "reading": asdict(shot.reading),
    } | ({"window": shot.window} if shot.window else {})
    if shot.source:
        poses = b"".join(part.cpu().numpy().tobytes() for part in (shot.source.c2w, shot.source.K))
        record["source_sha256"] = hashlib.sha256(poses).hexdigest()
    if shot.measured:
        record["source"] = "measured" if shot.source else record["source"]
        record["measured"] = shot.measured.record
    record["resolution"] = shot.resolution
    words = {name: getattr(shot, name) for name in ("caption", "negative") if getattr(shot, name) is not None}
    if shot.depth is not None:
        record["depth"] = str(shot.depth)
    if shot.decoder:
        record["decoder"] = {
            "folder": str(shot.decoder),
            "depth": str(shot.depth) if is_depth_file(shot.depth) else "estimated",
        }
    return record | words | ({"tracks": shot.tracks.record()} if shot.tracks else {})


def _write(out: Path, job: _Job, record: dict, overwrite: bool) -> Outputs:
    """Write everything into the new folder."""
    began, footage = time.monotonic(), job.footage
    with new_folder(out, overwrite, footage.path, job.shot.depth) as aside:
        with job.tracks or nullcontext():
            with ExitStack() as stack:
                single = stack.enter_context(VideoWriter(aside / "video.mp4", footage.fps))
                double = stack.enter_context(VideoWriter(aside / "side_by_side.mp4", footage.fps))
                for reference, made in _stream(job):
                    for frame in to_bytes(made):
                        single.append(frame)
                    pair = {"reference": reference, f"re-shot: {job.shot.path.label}": made}
                    for frame in side_by_side({name: _for_the_eye(video) for name, video in pair.items()}):
                        double.append(frame)
            tracks, track_notes = job.tracks.write(aside, aside / "video.mp4") if job.tracks else ([], [])
        record["input"]["notes"] += [*track_notes, *(job.aligned.notes if job.aligned else ())]
        record["audio"] = _add_audio(aside / "video.mp4", footage)
        record["attention"] = job.model.dit.chosen_kernels
        record["peak_memory_gib"] = round(peak_gib(job.model.device), 3)
        record["seconds"] = round(time.monotonic() - began, 3)
        size = job.plan.region.size if job.plan.region else job.fit.content
        record["output"] = {"size": size, "encoded_size": single.size, "fps": footage.fps}
        cameras = job.plan.region.camera(job.cameras) if job.plan.region else job.cameras
        (aside / "cameras.json").write_text(json.dumps(camera_record(cameras, footage.fps), indent=1))
        (aside / "run.json").write_text(json.dumps(record, indent=1))
    files = (out / name for name in ("video.mp4", "side_by_side.mp4", "cameras.json", "run.json"))
    return Outputs(out, *files, tuple(record["input"]["notes"]), tuple(out / path.name for path in tracks))


def _stream(job: _Job) -> Iterator[tuple[Shaped[Tensor, "n 3 H W"], Shaped[Tensor, "n 3 H W"]]]:
    """Reference and generated frames, trimmed to the content, in order; those at full resolution are bytes."""
    shot, footage, fit = job.shot, job.footage, job.fit
    spans = window_spans(job.model.config, len(footage))
    kept: dict[int, Tensor] = {}

    def read(start: int, stop: int) -> Tensor:
        oldest = start if job.plan.full else min(start, at)  # windows that are made at once are read ahead
        for index in [i for i in kept if i < oldest]:
            del kept[index]
        missing = [i for i in range(start, stop) if i not in kept]
        if missing:
            kept.update(zip(missing, fit.apply(footage.read(missing[0], missing[-1] + 1, fit.scaled)), strict=True))
        return torch.stack([kept[i] for i in range(start, stop)])

    at = 0
    with tqdm(total=len(spans) * shot.sample.steps, desc=f"re-shooting, {shot.path.label}", unit="step") as bar:
        keep = job.tracks.keep if job.tracks else None
        video = LongVideo(read, job.cameras, shot.path.pivot_m, job.prompts, spans)
        pieces = generate_stream(job.model, video, shot.sample, job.aligned, Callbacks(bar.update, keep))
        if job.plan.full:
            for frame in job.plan.full.stream(pieces):
                yield frame.source[None], frame.result[None]
            return
        for made in pieces:
            reference = torch.stack([kept[i] for i in range(at, at + len(made))])
            at += len(made)
            yield fit.undo(reference), fit.undo(made)


def _for_the_eye(video: Shaped[Tensor, "n 3 H W"]) -> Shaped[Tensor, "n 3 h w"]:
    """A large video at a size at which two of them fit on a screen."""
    height, width = video.shape[-2:]
    scale = _SIDE_BY_SIDE_HEIGHT / height
    return video if scale >= 1 else resized(video, (_SIDE_BY_SIDE_HEIGHT, max(2, round(width * scale))))


def _add_audio(video: Path, footage: Video) -> str:
    with_sound = video.with_name("with_sound.mp4")
    happened = copy_audio(video, footage, with_sound)
    if with_sound.exists():
        os.replace(with_sound, video)
    return happened


def camera_record(cameras: Camera, fps: float) -> dict:
    """Cameras (2, T) as plain numbers, with their conventions spelled out."""
    return {
        "convention": "OpenCV axes (x right, y down, z forward); camera-to-world 4x4; raster pixels",
        "unit": "metres" if cameras.scale_known else "unknown scale",
        "size": {"height": cameras.size[0], "width": cameras.size[1]},
        "fps": fps,
        "views": [
            {"name": name, "c2w": view.c2w.tolist(), "K": view.K.tolist()}
            for name, view in zip(("reference", "target"), (cameras[0], cameras[1]), strict=True)
        ],
    }


def model_hash(source: str) -> str | None:
    """Digest of a model's weights by its source; None where it is not there, or for a model given in memory."""
    try:
        return sha256_once(model_file(source))
    except ValueError:
        return None
