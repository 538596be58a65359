"""From a video file to a re-shot video file: read, fit to the model, generate, write what was done."""

import hashlib
import json
import os
import shutil
import time
from dataclasses import asdict, dataclass, replace
from importlib import metadata, resources
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from tqdm import tqdm

from mvtrack.backbone.model import WEIGHTS_FILE, ReshootModel, load_model
from mvtrack.camera import Camera, intrinsics_from_fov
from mvtrack.config import to_tree
from mvtrack.data.panels import side_by_side
from mvtrack.data.video_io import from_bytes, probe, read_video, write_video
from mvtrack.generate import SampleConfig, count_steps, generate_long
from mvtrack.trajectory import CameraPath

DEFAULT_FOV_DEG = 50.0


@dataclass(frozen=True)
class Shot:
    """What to do with a video. The source camera is taken as still, with this horizontal field of view (degrees).

    scene_depth: distance of the subject in the path's unit; amounts in metres and the pivot are relative to it.
    """

    path: CameraPath
    fov_deg: float = DEFAULT_FOV_DEG
    scene_depth: float | None = None  # None: the path's pivot distance
    sample: SampleConfig = SampleConfig()


@dataclass(frozen=True)
class Outputs:
    """The files of one re-shoot."""

    folder: Path
    video: Path
    side_by_side: Path
    cameras: Path
    run: Path


@dataclass(frozen=True)
class Fitted:
    """A video at a model's size: scaled to cover it and cropped in the middle."""

    frames: Float[Tensor, "T 3 H W"]
    camera: Camera  # (T,), still
    fps: float
    source_size: tuple[int, int]
    scaled_size: tuple[int, int]
    crop_left_top: tuple[int, int]


def shipped_model() -> Path:
    """Folder of the tiny model that comes with the package."""
    return Path(str(resources.files("mvtrack").joinpath("shipped/tiny")))


def reshoot_file(
    video: Path | str,
    camera: str | CameraPath,
    model: ReshootModel | Path | str | None = None,
    out: Path | str | None = None,
    shot: Shot | None = None,
    overwrite: bool = False,
) -> Outputs:
    """Re-shoot a video file along a camera path and write the results to a new folder.

    camera: a preset's name or a path. model: a model, its folder, or None for the shipped one.
    out: folder to create, default outputs/<video>_<camera>. Raises ValueError before anything is written when the
    input cannot be used; nothing half-written stays behind.
    """
    path = CameraPath(camera) if isinstance(camera, str) else camera
    shot = replace(shot, path=path) if shot else Shot(path)
    video = Path(video)
    out = Path(out) if out else Path("outputs") / f"{video.stem}_{path.preset}"
    if out.exists() and not overwrite:
        raise ValueError(f"output folder {out} exists already: choose another --out, or pass --overwrite")
    began = time.monotonic()
    source = "given" if isinstance(model, ReshootModel) else str(model or shipped_model())
    if not isinstance(model, ReshootModel):
        model = load_model(model or shipped_model())
    fitted = fit_video(video, model, shot.fov_deg)
    read_s = time.monotonic() - began
    cameras = cameras_of(fitted, path)
    made = _generate(model, fitted, cameras, shot)
    generate_s = time.monotonic() - began - read_s
    record = {
        "command": "reshoot",
        "mvtrack": metadata.version("mvtrack"),
        "torch": torch.__version__,
        "input": {"file": str(video), "sha256": sha256(video), "frames": len(made), "fps": fitted.fps},
        "fit": {k: getattr(fitted, k) for k in ("source_size", "scaled_size", "crop_left_top")},
        "model": {"source": source, "sha256": _model_hash(source), "config": to_tree(model.config)},
        "shot": asdict(shot) | {"scene_depth": shot.scene_depth or path.pivot_m},
        "seconds": {"read": round(read_s, 3), "generate": round(generate_s, 3)},
    }
    return _write(out, fitted, made, cameras, record)


def fit_video(video: Path, model: ReshootModel, fov_deg: float) -> Fitted:
    """Read a video at the model's size of the nearest aspect ratio."""
    info = probe(video)
    height, width = info.size
    size = min(model.config.sizes, key=lambda s: abs(np.log((s[1] / s[0]) / (width / height))))
    factor = max(size[0] / height, size[1] / width)
    scaled = max(size[0], round(height * factor)), max(size[1], round(width * factor))
    top, left = (scaled[0] - size[0]) // 2, (scaled[1] - size[1]) // 2
    frames, fps = read_video(video, scaled)
    frames = from_bytes(frames[..., top : top + size[0], left : left + size[1]])
    K = intrinsics_from_fov(fov_deg, info.size).expand(len(frames), 3, 3)
    still = torch.eye(4).expand(len(frames), 4, 4)
    camera = Camera(still, K, info.size).resized(scaled).cropped(left, top, size)
    return Fitted(frames, camera, fps, info.size, scaled, (left, top))


def cameras_of(fitted: Fitted, path: CameraPath) -> Camera:
    """(2, T): the still source, and the path from its first frame."""
    target = replace(fitted.camera, c2w=path.poses(len(fitted.frames)).float())
    return Camera.stack([fitted.camera, target])


def _generate(model: ReshootModel, fitted: Fitted, cameras: Camera, shot: Shot) -> Float[Tensor, "T 3 H W"]:
    total = count_steps(model, len(fitted.frames), shot.sample)
    with tqdm(total=total, desc=f"re-shooting, {shot.path.preset}", unit="step") as bar:
        return generate_long(
            model,
            fitted.frames,
            cameras,
            shot.sample,
            scene_depth=shot.scene_depth or shot.path.pivot_m,
            on_step=bar.update,
        )


def _write(out: Path, fitted: Fitted, made: Tensor, cameras: Camera, record: dict) -> Outputs:
    """Write everything beside the final folder, then rename it into place."""
    out.parent.mkdir(parents=True, exist_ok=True)
    aside = out.with_name(f".{out.name}.{os.getpid()}")
    try:
        aside.mkdir()
        write_video(aside / "video.mp4", made, fitted.fps)
        panels = {"reference": fitted.frames, f"re-shot: {record['shot']['path']['preset']}": made}
        write_video(aside / "side_by_side.mp4", side_by_side(panels), fitted.fps)
        (aside / "cameras.json").write_text(json.dumps(camera_record(cameras, fitted.fps), indent=1))
        (aside / "run.json").write_text(json.dumps(record, indent=1))
        if out.exists():
            shutil.rmtree(out)
        os.replace(aside, out)
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return Outputs(out, out / "video.mp4", out / "side_by_side.mp4", out / "cameras.json", out / "run.json")


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


def sha256(path: Path) -> str:
    """Hex digest of a file's bytes."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _model_hash(source: str) -> str | None:
    path = Path(source)
    path = path / WEIGHTS_FILE if path.is_dir() else path
    return sha256(path) if path.is_file() else None
