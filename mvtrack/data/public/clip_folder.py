"""Multi-view clips as a user lays them out: a folder per clip with its videos, cameras, caption and point tracks.

clips/dance/front.mp4 left.mp4 …     two or more videos of the same moments
clips/dance/front.json left.json …   a pose file of any format for each video, by its name; or
clips/dance/cameras.json             one file that names a view for each video
clips/dance/depth/front.npz …        optional: z-depth (frames, H, W) of a video in its cameras' unit
clips/dance/masks/front.npz …        optional: `masks` (frames, H, W), what moves
clips/dance/caption.txt, domain.txt  optional
clips/dance/tracks.npz               optional: what `mvtrack track` writes, or arrays xy, visible and found
"""

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Shaped
from torch import Tensor

from mvtrack.config.datasets import DatasetOptions
from mvtrack.data.public.files import read_arrays
from mvtrack.data.public.layout import (
    LOOKED_AT,
    DatasetLayout,
    Fitting,
    MultiViewScene,
    SceneFiles,
    SceneView,
    open_videos,
    scene_tracks,
)
from mvtrack.geometry.pose_files.timing import FrameGrid, read_video_cameras
from mvtrack.video.depth_file import DepthFile
from mvtrack.video.reader import VIDEO_SUFFIXES, videos_in
from mvtrack.video.resize import fit_to
from mvtrack.video.video import Video

CAMERAS, CAPTION, DOMAIN = "cameras.json", "caption.txt", "domain.txt"
_VIDEO, _POSES = "two or more videos", f"a pose file for each, or {CAMERAS}"


class ClipFolders(DatasetLayout):
    name = "clips"
    title = "a folder per clip, with its videos and pose files (docs/data.md)"
    bases = ("*",)
    signs = (_VIDEO, _POSES)

    def fitting(self, root: Path) -> Fitting:
        clips = [path for path in islice(self._folders(root), LOOKED_AT) if len(videos_in(path)) > 1]
        posed = any(_poses(path, video) for path in clips for video in videos_in(path))
        there = ((_VIDEO,) if clips else ()) + ((_POSES,) if posed else ())
        return Fitting("*", there, tuple(sign for sign in self.signs if sign not in there))

    def is_scene(self, folder: Path) -> bool:
        return True

    def scenes(self, root: Path, options: DatasetOptions) -> list[SceneFiles]:
        return [
            replace(
                scene,
                captions=_words(scene.path / CAPTION) or scene.captions,
                domain="".join(_words(scene.path / DOMAIN)),
            )
            for scene in super().scenes(root, options)
        ]

    def files(self, scene: SceneFiles) -> list[Path]:
        videos = _videos(scene.path)
        maps = (_maps(scene.path, kind, video) for kind in ("depth", "masks") for video in videos)
        return sorted({*videos, *(_pose_file(scene.path, video) for video in videos), *filter(None, maps)})

    def read(self, scene: SceneFiles) -> MultiViewScene:
        views = []
        for video in open_videos(_videos(scene.path)):
            path, poses = video.path, _pose_file(scene.path, video.path)
            named = {"view": path.stem} if poses.name == CAMERAS else {}
            camera, _ = read_video_cameras(poses, FrameGrid.of(video), **named)
            depth, masks = _maps(scene.path, "depth", path), _maps(scene.path, "masks", path)
            view = SceneView(
                path.stem, video, camera,
                None if depth is None else partial(_read_depth, depth, video),
                None if masks is None else partial(_read_masks, masks, video),
            )  # fmt: skip
            views.append(view)
        return MultiViewScene(scene.name, tuple(views), tracks=scene_tracks(scene, len(views)))

    @staticmethod
    def _folders(root: Path) -> Iterator[Path]:
        return (path for path in sorted(root.iterdir()) if path.is_dir() and not path.name.startswith("."))


def _videos(folder: Path) -> list[Path]:
    videos = videos_in(folder)
    if len(videos) < 2:
        raise ValueError(f"{folder} holds {len(videos)} videos: a clip needs two or more views of the same moments")
    return videos


def _poses(folder: Path, video: Path) -> list[Path]:
    own = [f for f in folder.glob(f"{video.stem}.*") if f != video and f.suffix.lower() not in VIDEO_SUFFIXES]
    return own or [path for path in [folder / CAMERAS] if path.is_file()]


def _pose_file(folder: Path, video: Path) -> Path:
    found = _poses(folder, video)
    if len(found) > 1:
        raise ValueError(f"{folder} holds several pose files of {video.name}: {', '.join(f.name for f in found)}")
    if not found:
        raise ValueError(f"{folder} holds no cameras of {video.name}: expected {video.stem}.json, or {CAMERAS}")
    return found[0]


def _words(path: Path) -> tuple[str, ...]:
    return (path.read_text(encoding="utf-8").strip(),) if path.is_file() else ()


def _maps(folder: Path, kind: str, video: Path) -> Path | None:
    found = (folder / kind / f"{video.stem}{suffix}" for suffix in (".npz", ".npy"))
    return next((path for path in found if path.is_file()), None)


def _read_depth(path: Path, video: Video, frames: int) -> Tensor:
    file, fit = DepthFile(path, video), fit_to(video.size, video.size, "stretch")
    return torch.stack([file.read(frame, fit) for frame in range(frames)]).nan_to_num(0, 0, 0).clamp(min=0)


def _read_masks(path: Path, video: Video, frames: int) -> Shaped[Tensor, "T H W"]:
    masks = np.load(path, allow_pickle=False) if path.suffix == ".npy" else read_arrays(path, "masks")[0]
    if masks.shape != (len(video), *video.size):
        raise ValueError(f"{path} is {masks.shape}, the video has {len(video)} frames of {video.size}")
    return torch.from_numpy(masks[:frames] > 0)
