"""Multi-view clips as a user lays them out: a folder per clip with its videos, cameras, caption and point tracks.

clips/dance/front.mp4 left.mp4 …     two or more videos of the same moments
clips/dance/front.json left.json …   a pose file of any format for each video, by its name; or
clips/dance/cameras.json             one file that names a view for each video
clips/dance/caption.txt              optional
clips/dance/tracks.npz               optional: what `mvtrack track` writes, or arrays xy, visible and found
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from mvtrack.data.clip import Clip
from mvtrack.geometry.camera import Camera
from mvtrack.geometry.pose_files.timing import FrameGrid, read_video_cameras
from mvtrack.models.weights.fingerprint import fingerprint
from mvtrack.video.reader import VIDEO_SUFFIXES, open_video, videos_in
from mvtrack.video.resize import Fit
from mvtrack.video.video import Video
from tracking_head import Tracks

_SAME_RATE = 0.01
CAMERAS, CAPTION, TRACKS = "cameras.json", "caption.txt", "tracks.npz"


@dataclass(frozen=True)
class ClipFolder:
    """One clip's files. cameras: of each video; the same file for all where it names views."""

    path: Path
    videos: tuple[Path, ...]
    cameras: tuple[Path, ...]
    caption: str
    tracks: Path | None

    @property
    def name(self) -> str:
        return self.path.name

    def contents(self) -> list[str]:
        """What it is made of, for a key: names and fingerprints of all files."""
        files = sorted({*self.videos, *self.cameras, *([self.tracks] if self.tracks else [])})
        return [self.caption, *(f"{file.name} {fingerprint(file)}" for file in files)]


def clip_folders(root: Path) -> list[ClipFolder]:
    """All clips below a folder, by name. Raises ValueError that names what is wrong with one."""
    if not root.is_dir():
        raise ValueError(f"{root} is no folder of clips: each clip is a folder with its videos in it")
    found = [_open(path) for path in sorted(root.iterdir()) if path.is_dir() and not path.name.startswith(".")]
    if not found:
        raise ValueError(f"{root} holds no folders: each clip is a folder with its videos in it")
    return found


def _open(path: Path) -> ClipFolder:
    videos = tuple(videos_in(path))
    if len(videos) < 2:
        raise ValueError(f"{path} holds {len(videos)} videos: a clip needs two or more views of the same moments")
    common = path / CAMERAS
    cameras = []
    for video in videos:
        own = [f for f in path.glob(f"{video.stem}.*") if f != video and f.suffix.lower() not in VIDEO_SUFFIXES]
        if len(own) > 1:
            raise ValueError(f"{path} holds several pose files of {video.name}: {', '.join(f.name for f in own)}")
        if not own and not common.is_file():
            raise ValueError(f"{path} holds no cameras of {video.name}: expected {video.stem}.json, or {CAMERAS}")
        cameras.append(own[0] if own else common)
    caption, tracks = path / CAPTION, path / TRACKS
    text = caption.read_text(encoding="utf-8").strip() if caption.is_file() else ""
    return ClipFolder(path, videos, tuple(cameras), text, tracks if tracks.is_file() else None)


def read_clip(folder: ClipFolder, num_frames: int, fit: Callable[[tuple[int, int]], Fit]) -> Clip:
    """The first num_frames of all views, as `fit` (of a source's size) makes them meet one picture.

    Raises ValueError for videos that are shorter, or that do not agree with each other, their cameras or tracks.
    """
    footage = [open_video(video) for video in folder.videos]
    lengths = {len(film) for film in footage}
    if len(lengths) > 1 or min(lengths) < num_frames:
        shown = ", ".join(f"{film.path.name} {len(film)}" for film in footage)
        raise ValueError(f"{folder.path}: all videos must have the same {num_frames} frames or more, got {shown}")
    rates = [film.fps for film in footage]
    if max(rates) > (1 + _SAME_RATE) * min(rates):
        shown = ", ".join(f"{film.path.name} {film.fps:g}" for film in footage)
        raise ValueError(f"{folder.path}: all videos must have the same frame rate, got {shown} frames a second")
    fits = [fit(film.size) for film in footage]
    video = torch.stack([f.apply(film.read(0, num_frames, f.scaled)) for f, film in zip(fits, footage, strict=True)])
    cameras = [_cameras(folder, i, film, num_frames) for i, film in enumerate(footage)]
    camera = Camera.stack([f.camera(camera) for f, camera in zip(fits, cameras, strict=True)]).to(dtype=torch.float32)
    tracks = None if folder.tracks is None else _tracks(folder.tracks, fits, footage, num_frames)
    return Clip(video, camera, footage[0].fps, folder.caption, folder.name, tracks)


def _cameras(folder: ClipFolder, view: int, footage: Video, num_frames: int) -> Camera:
    file, options = folder.cameras[view], {}
    if file.name == CAMERAS:
        options = {"view": folder.videos[view].stem}
    camera, _ = read_video_cameras(file, FrameGrid.of(footage), **options)
    return camera[:num_frames]


def _tracks(path: Path, fits: list[Fit], footage: list[Video], num_frames: int) -> Tracks:
    try:
        with np.load(path) as file:
            xy, visible, found = (torch.from_numpy(file[name]) for name in ("xy", "visible", "found"))
    except (OSError, ValueError, KeyError) as error:
        raise ValueError(f"{path} is not a file of tracks with xy, visible and found ({error})") from error
    shape = (len(fits), len(footage[0]))
    if xy.ndim != 4 or tuple(xy.shape[:2]) != shape:
        raise ValueError(f"{path}: xy must be ({shape[0]} views, {shape[1]} frames, points, 2), got {tuple(xy.shape)}")
    xy = torch.stack([fit.to_picture(view.float()) for fit, view in zip(fits, xy, strict=True)])[:, :num_frames]
    size = torch.tensor(fits[0].model[::-1])
    inside = (xy >= 0).all(-1) & (xy < size).all(-1)
    return Tracks(xy, visible[:, :num_frames].bool() & inside, found.bool())
