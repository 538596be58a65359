"""Cameras of a video file, measured once: kept by a hash of the video and of everything else that they depend on."""

import hashlib
import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
import torch
from jaxtyping import Bool
from tqdm import tqdm

from mvtrack.config.video_reading import DEFAULT_READING, VideoReading
from mvtrack.files.cache import cache_folder, sha256
from mvtrack.geometry.camera import Camera, intrinsics_from_fov
from mvtrack.inference.camera_estimation.colmap import DEFAULT, ColmapConfig, colmap_missing, recover_with_colmap
from mvtrack.inference.camera_estimation.estimated_cameras import CameraEstimationError, EstimatedCameras
from mvtrack.video.images import IMAGE_SUFFIXES
from mvtrack.video.reader import open_video
from mvtrack.video.video import Video

GUESSED_FOV_DEG = 50.0  # where the search for the lens begins
_VERSION = 1  # raised when the same video gives other cameras
_MOST_FRAMES = 81  # that are measured; longer videos are interpolated between them
LONGEST_SIDE = 640  # pixels; larger pictures are scaled down
_LEAST_COVERAGE = 0.5  # of the measured frames
_BLACK = 32  # of 255: what a lossy codec may make of a mask's black


def cameras_of_video(
    video: Path, fov_deg: float | None = None, masks: Path | None = None, cache: Path | None = None,
    config: ColmapConfig = DEFAULT, reading: VideoReading = DEFAULT_READING,
) -> EstimatedCameras:  # fmt: skip
    """Cameras (T,) of a video's frames at its own size; `found` marks those that were measured themselves.

    fov_deg: horizontal field of view where it is known; None measures it too. masks: a video or folder of images that
    is not black where things move (or one image for all frames), of the video's size. cache: default `cache_folder()`.

    Raises CameraEstimationError with the reason when the pictures do not tell, ValueError for bad input or without
    pycolmap.
    """
    footage = open_video(video, fps=reading.fps, damaged=reading.damaged)
    if lacking := colmap_missing():
        raise ValueError(f"the cameras of {video} cannot be measured: missing {lacking}, or give them as a pose file")
    moving = None if masks is None else _open_masks(masks, footage)
    depends = {
        "version": _VERSION, "video": sha256(video), "masks": None if masks is None else sha256(masks),
        "fov_deg": fov_deg, "colmap": config.record(), "frames": len(footage), "size": footage.size,
    }  # fmt: skip
    key = hashlib.sha256(json.dumps(depends, sort_keys=True).encode()).hexdigest()[:32]
    kept = estimate_once(key, lambda: _measured(footage, moving, fov_deg, config), cache)
    if isinstance(kept, str):
        raise CameraEstimationError(f"the cameras of {video} cannot be measured: {kept}")
    return kept


def estimate_once(
    key: str, measure: Callable[[], EstimatedCameras], cache: Path | None = None
) -> EstimatedCameras | str:
    """What was found, or why nothing was (CameraEstimationError's message), kept under a key. Another error raises."""
    file = (cache or cache_folder()) / "cameras" / f"{key}.npz"
    kept = _read(file)
    if kept is None:
        try:
            kept = measure()
        except CameraEstimationError as error:
            kept = str(error)
        _write(file, kept)
    return kept


def _measured(footage: Video, moving: Video | None, fov_deg: float | None, config: ColmapConfig) -> EstimatedCameras:
    factor = min(1.0, LONGEST_SIDE / max(footage.size))
    size = (max(1, round(footage.size[0] * factor)), max(1, round(footage.size[1] * factor)))
    index = np.unique(np.linspace(0, len(footage) - 1, _MOST_FRAMES).round().astype(int)).tolist()
    frames = np.stack([footage.read(i, i + 1, size)[0].permute(1, 2, 0).numpy() for i in index])  # (T, H, W, 3)
    ignore = None if moving is None else np.stack([_mask(moving, i, size) for i in index])
    K = intrinsics_from_fov(GUESSED_FOV_DEG if fov_deg is None else fov_deg, size)[None]
    lens = Camera(torch.eye(4)[None], K, size)
    with tqdm(desc=f"measuring the cameras of {footage.path.name}, {len(index)} frames", unit="stage") as bar:

        def show(stage: str) -> None:
            bar.set_postfix_str(stage)
            bar.update()

        found = recover_with_colmap(frames, lens, fov_deg is not None, ignore, config, show)
    if found.coverage < _LEAST_COVERAGE:
        raise CameraEstimationError(f"only {int(found.found.sum())} of {len(index)} frames could be placed")
    found = replace(found, camera=found.camera.resized(footage.size))
    return found.at_frames(index, len(footage))


def _open_masks(path: Path, footage: Video) -> Video:
    still = path.is_file() and path.suffix.lower() in IMAGE_SUFFIXES
    moving = open_video(path, still_frames=len(footage))
    if still:
        moving.frame_of = np.zeros(len(footage), int)
    else:
        moving.frame_of = moving.frame_of[footage.of_ticks(len(moving), f"masks {path}")]
    if moving.size != footage.size:
        raise ValueError(
            f"{'mask' if still else 'masks'} {path} {'is' if still else 'are'} {moving.size[1]}x{moving.size[0]}, "
            f"{footage.path} is {footage.size[1]}x{footage.size[0]}: make them of the video's size"
        )
    return moving


def _mask(moving: Video, frame: int, size: tuple[int, int]) -> Bool[np.ndarray, "H W"]:
    """A frame's mask, scaled down with every pixel that holds any of it."""
    white = moving.read(frame, frame + 1)[0].amax(0) > _BLACK
    return torch.nn.functional.adaptive_max_pool2d(white[None].float(), size)[0].bool().numpy()


def _read(file: Path) -> EstimatedCameras | str | None:
    """What was measured before, or why nothing was; None where nothing is kept, or only half."""
    try:
        with file.open("rb") as stream, np.load(stream, allow_pickle=False) as arrays:
            kept = dict(arrays)
        return str(kept["not_recovered"]) if "not_recovered" in kept else EstimatedCameras.of_arrays(kept)
    except (OSError, ValueError, KeyError, EOFError, BadZipFile):
        return None


def _write(file: Path, kept: EstimatedCameras | str) -> None:
    """Written aside and renamed: several processes may fill one cache."""
    file.parent.mkdir(parents=True, exist_ok=True)
    aside = file.with_suffix(f".{os.getpid()}.partial")
    with aside.open("wb") as stream:
        np.savez(stream, **({"not_recovered": np.array(kept)} if isinstance(kept, str) else kept.arrays()))
    aside.replace(file)
