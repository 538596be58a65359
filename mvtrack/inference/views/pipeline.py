"""From photographs of a still scene to new views of it: read, find the cameras, generate in batches, write."""

import json
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from importlib import metadata
from pathlib import Path

import torch
from torch import Tensor
from tqdm import tqdm

from mvtrack.config.model import ModelConfig
from mvtrack.config.placement import Placement
from mvtrack.config.tree import to_tree
from mvtrack.files.atomic_io import new_folder, refuse_existing
from mvtrack.files.cache import sha256
from mvtrack.geometry.camera import Camera
from mvtrack.inference.device import place, placed_config
from mvtrack.inference.full_resolution.plan import region_notes
from mvtrack.inference.full_resolution.region import Region, plan_region
from mvtrack.inference.machine import peak_gib
from mvtrack.inference.memory.aligned import AlignerSize
from mvtrack.inference.memory.check_memory import refuse_inference
from mvtrack.inference.memory.encoders import encoders_of
from mvtrack.inference.memory.forecast import VideoJob, forecast
from mvtrack.inference.memory.inference import Work
from mvtrack.inference.pipeline import model_hash
from mvtrack.inference.sampler import SamplerOptions
from mvtrack.inference.views.anchors import ViewBatch, plan_batches
from mvtrack.inference.views.batches import generate_batches
from mvtrack.inference.views.finish import Finish, plan_finish
from mvtrack.inference.views.generate import StillScene, check_sampling
from mvtrack.inference.views.photos import PhotoSequence, find_photos
from mvtrack.inference.views.points import triangulated, write_ply
from mvtrack.inference.views.request import AUTO, ViewsRequest
from mvtrack.inference.views.scene import NewViews, StillPhotos, read_photos, read_targets
from mvtrack.inference.views.targets import unseen_note, unseen_share
from mvtrack.models.decoder.decode_aligned import AlignedDecoding
from mvtrack.models.decoder.depth import refuse_wrong_unit
from mvtrack.models.decoder.files import load_aligner
from mvtrack.models.reshoot_model import ReshootModel, load_model, read_config
from mvtrack.video.depth_file import is_depth_file
from mvtrack.video.images import read_image
from mvtrack.video.writer import VideoWriter, to_bytes

PICTURES, VIDEO, CAMERAS, RUN, POINTS = "views", "video.mp4", "cameras.json", "run.json", "points.ply"


@dataclass(frozen=True)
class ViewsOutputs:
    """The files of new views. notes: what had to be done to the input, and what to know of the result. points: a cloud,
    where one was asked for."""

    folder: Path
    views: tuple[Path, ...]
    video: Path
    cameras: Path
    run: Path
    notes: tuple[str, ...] = ()
    points: Path | None = None


@dataclass(frozen=True)
class _Job:
    """Everything that is made, checked. region: None where the model's own pictures are the results."""

    photos: StillPhotos
    targets: NewViews
    batches: list[ViewBatch]
    region: Region | None
    request: ViewsRequest
    sample: SamplerOptions
    maps: Tensor | None = None  # z-depth of the photographs, where the network needs it
    aligned: AlignedDecoding | None = None


def views_from_photos(
    photos: Sequence[Path | str], targets: str, model: ReshootModel | Path | str, out: Path | str | None = None,
    request: ViewsRequest | None = None, say: Callable[[str], None] | None = None,
) -> ViewsOutputs:  # fmt: skip
    """New views of a still scene from one or more photographs of it, written to a new folder.

    photos: image files of any sizes, or folders of them. targets: a path in the path language, from the first
    photograph, or a pose file, in the world of `request.cameras`; without that file, in the first photograph's frame.
    model: a model for still scenes, or its folder. out: default outputs/PHOTO_views. say: gets what is to know before
    the work begins. Raises ValueError before anything is written when the input cannot be used.
    """
    request, files = request or ViewsRequest(), find_photos([Path(photo) for photo in photos])
    out = Path(out) if out else Path("outputs") / f"{files[0].stem}_views"
    refuse_existing(out, request.overwrite, *files)
    source = "given" if isinstance(model, ReshootModel) else str(model)
    own = model.config if isinstance(model, ReshootModel) else still_config(source, request.placement)
    check_still_model(own, source)
    sample = request.sample or SamplerOptions.of(own)
    check_sampling(own, sample, request.domain)
    scene = read_photos(files, [read_image(file).shape[:2] for file in files], own, request)
    wanted = read_targets(targets, scene, own, request)
    needs_depth = own.cat3d is not None and own.cat3d.depth_priors
    maps = scene.depth_maps(request.depth) if needs_depth else None
    batches = plan_batches(scene.fitted, wanted.camera, own.views, scene.subject_distance, anchored=maps is None)
    region = plan_region(scene.fits[0], request.resolution)
    unseen = unseen_share(_shown(wanted.camera, scene), list(scene.camera), scene.subject_distance)
    cut = region_notes(region, request.resolution)
    notes = (*scene.notes, *wanted.notes, *cut, *filter(None, [unseen_note(unseen, wanted.names)]))
    for note in notes if say else ():
        say(note)
    aligned = None if request.decoder is None else aligned_decoding(request, own, scene)
    job = _Job(scene, wanted, batches, region, request, sample, maps, aligned)
    if not isinstance(model, ReshootModel):
        _foretell(own, job, say)
    record = {
        "command": "views", "mvtrack": metadata.version("mvtrack"), "torch": torch.__version__,
        "photographs": [{"file": str(file), "sha256": sha256(file)} for file in scene.files],
        "cameras": scene.record, "subject_distance": scene.subject_distance, "targets": targets,
        "model": {"source": source, "sha256": model_hash(source), "config": to_tree(own)},
        "sample": to_tree(sample), "domain": request.domain, "placement": request.placement.record(),
        "unseen_share": [round(share, 4) for share in unseen.tolist()], "notes": list(notes),
        "batches": [_batch_record(batch, scene, wanted) for batch in batches],
    }  # fmt: skip
    if aligned is not None:
        record["decoder"] = {"folder": str(request.decoder), "depth": _depth_words(request, aligned)}
    if not isinstance(model, ReshootModel):
        model = replace(place(load_model(model), request.placement), config=own)
    return _write(out, job, model, record)


def _foretell(config: ModelConfig, job: _Job, say: Callable[[str], None] | None) -> None:
    """Refuse what will not fit into memory, and say what takes long."""
    aligner = job.aligned and AlignerSize.of(job.aligned.aligner)
    work = Work(encoders_of(config), aligner=aligner, batches=len(job.batches))
    size, source, count = job.photos.fits[0].model, job.photos.sizes[0], len(job.targets.names)
    if not job.request.ignore_memory:
        refuse_inference(config, size, 1, job.sample, job.request.placement, work)
    video = VideoJob(size, count, source, job.region and job.region.size, job.sample, work)
    if say and (ahead := forecast(config, [video], job.request.placement)):
        say(ahead)


def aligned_decoding(request: ViewsRequest, config: ModelConfig, photos: StillPhotos) -> AlignedDecoding:
    """With a request's decoder. Raises ValueError for one of another codec, and for depth that cannot be used."""
    aligner = load_aligner(request.decoder, config.codec)
    if not is_depth_file(request.depth):
        return AlignedDecoding(aligner)
    maps = photos.depth_maps(request.depth)
    by_depth = request.subject_distance is None and request.cameras not in (None, AUTO)
    refuse_wrong_unit(maps, photos.fitted, None if by_depth else photos.subject_distance, str(request.depth))
    return AlignedDecoding(aligner, {view: partial(_same_at_all_times, own) for view, own in enumerate(maps)})


def _same_at_all_times(depth: Tensor, frame: int) -> Tensor:
    return depth


def _depth_words(request: ViewsRequest, aligned: AlignedDecoding) -> str:
    return str(request.depth) if aligned.depth else "estimated"


def still_config(source: str, placement: Placement) -> ModelConfig:
    """Of a model's folder. Raises ValueError, with the command that makes one, for released weights."""
    if (Path(source) / "model_index.json").is_file():
        kind = "hunyuan" if (Path(source) / "transformer").is_dir() else "cat3d"
        raise ValueError(
            f"{source} is a downloaded pipeline: `mvtrack convert {source} FOLDER --views {kind}` makes a model of it"
        )
    return placed_config(read_config(source), placement)


def check_still_model(config: ModelConfig, source: str) -> None:
    """Raise ValueError, with what to do, for a model that makes no single views of still scenes."""
    if config.views is None:
        raise ValueError(f"{source} re-shoots videos: use `mvtrack reshoot`, or give a model for still scenes")
    if config.views.encoding != "images":
        raise ValueError(
            f"{source} makes the frames of one path (model.views.encoding: path), not single views: give a model that "
            "was trained with encoding: images"
        )


def _batch_record(batch: ViewBatch, photos: StillPhotos, targets: NewViews) -> dict:
    names = [file.name for file in photos.files] + list(targets.names)
    return {"given": [names[i] for i in batch.given], "made": [targets.names[i] for i in batch.made[: batch.kept]]}


def _write(out: Path, job: _Job, model: ReshootModel, record: dict) -> ViewsOutputs:
    began, photos, targets = time.monotonic(), job.photos, job.targets
    finish = _finish(job)
    camera = joined_cameras(photos.fitted, targets.camera).to(dtype=torch.float32)
    scene = StillScene(photos.subject_distance, job.request.domain, maps=job.maps)
    steps = len(job.batches) * job.sample.steps
    pictures, plain = photos.pictures(), {}
    with new_folder(out, job.request.overwrite, *photos.files) as aside:
        with tqdm(total=steps, desc=f"{len(targets.names)} new views", unit="step") as bar:
            made = generate_batches(
                model, pictures, camera, job.batches, scene, job.sample, bar.update, job.aligned, plain
            )
        if job.request.export:
            record["points"] = _export_points(aside / POINTS, pictures, made, plain, camera, photos)
        frames = photos.fits[0].undo(made) if finish is None else finish.stream(made)
        size = _write_pictures(aside, frames, targets.names, job.request.fps)
        shown = _shown(targets.camera, photos) if job.region is None else job.region.camera(targets.camera)
        cameras = camera_record(photos, shown, targets.names)
        (aside / CAMERAS).write_text(json.dumps(cameras, indent=1))
        record["notes"] += job.aligned.notes if job.aligned else ()
        record |= {
            "geometry": finish and finish.geometry.name, "peak_memory_gib": round(peak_gib(model.device), 3),
            "seconds": round(time.monotonic() - began, 3), "output": {"size": size, "fps": job.request.fps},
        }  # fmt: skip
        (aside / RUN).write_text(json.dumps(record, indent=1))
    views = tuple(out / PICTURES / f"{name}.png" for name in targets.names)
    points = out / POINTS if job.request.export else None
    return ViewsOutputs(out, views, out / VIDEO, out / CAMERAS, out / RUN, tuple(record["notes"]), points)


def _export_points(
    path: Path, pictures: Tensor, made: Tensor, plain: dict[int, Tensor], camera: Camera, photos: StillPhotos
) -> dict:
    """Write the cloud of photographs and views in the user's world; the record of it, and of that before alignment."""
    camera = replace(camera, c2w=photos.world.to(camera.c2w) @ camera.c2w)
    cloud = triangulated(torch.cat([pictures, made]), camera)
    write_ply(path, cloud)
    record = cloud.record()
    if plain:
        before = torch.stack([plain[i] for i in range(len(made))])
        record["before_alignment"] = triangulated(torch.cat([pictures, before]), camera).record()
    return record


def _finish(job: _Job) -> Finish | None:
    if job.region is None:
        return None
    photos, targets = job.photos, job.targets.camera
    sequence = PhotoSequence.showing(photos.files, photos.sizes, range(len(photos.files)))
    return plan_finish(job.region, sequence, list(photos.camera), targets, photos.subject_distance, job.request.depth)


def _write_pictures(folder: Path, frames: Iterable[Tensor], names: Sequence[str], fps: float) -> tuple[int, int]:
    """Pictures and video; gives their size (H, W)."""
    import cv2

    (folder / PICTURES).mkdir()
    with VideoWriter(folder / VIDEO, fps) as video:
        for frame, name in zip(frames, names, strict=True):
            picture = to_bytes(frame[None])[0]
            video.append(picture)
            if not cv2.imwrite(str(folder / PICTURES / f"{name}.png"), picture[..., ::-1]):
                raise OSError(f"cannot write {folder / PICTURES / name}.png")
    return picture.shape[:2]


def camera_record(photos: StillPhotos, targets: Camera, names: Sequence[str]) -> dict:
    """Cameras as plain numbers in the user's world: the new views', and the photographs', each at its own size."""

    def view(name: str, camera: Camera, pictures: Sequence[str]) -> dict:
        size = {"height": camera.size[0], "width": camera.size[1]}
        c2w = photos.world.double() @ camera.c2w.double()
        return {"name": name, "size": size, "names": list(pictures), "c2w": c2w.tolist(), "K": camera.K.tolist()}

    own = [view(file.stem, camera[None], [file.name]) for file, camera in zip(photos.files, photos.camera, strict=True)]
    if len(set(photos.sizes)) == 1:
        own = [view("photographs", Camera.stack(list(photos.camera)), [file.name for file in photos.files])]
    return {
        "convention": "OpenCV axes (x right, y down, z forward); camera-to-world 4x4; raster pixels",
        "unit": "metres" if photos.camera[0].scale_known else "unknown scale",
        "views": [view("views", targets, [f"{name}.png" for name in names]), *own],
    }


def _shown(camera: Camera, photos: StillPhotos) -> Camera:
    """Cameras of the model's picture, for what is left of it without its padding."""
    (top, left), content = photos.fits[0].place, photos.fits[0].content
    return camera.cropped(left, top, content)


def joined_cameras(first: Camera, second: Camera) -> Camera:
    """Photographs' cameras and the views', (N + M,). Raises ValueError for those of different projections."""
    if first.projection != second.projection:
        raise ValueError("perspective and orthographic cameras do not go together: make these views apart")
    return replace(first, c2w=torch.cat([first.c2w, second.c2w]), K=torch.cat([first.K, second.K]))
