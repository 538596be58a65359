"""What every reader of a dataset is and gives: a layout that is recognised, its scenes, and a scene's contents."""

import csv
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from mvtrack.config.datasets import DatasetOptions
from mvtrack.data.public.files import read_arrays, safe_name
from mvtrack.geometry.camera import Camera
from mvtrack.geometry.pose_files.parse import natural_order
from mvtrack.geometry.pose_files.sequence import ROTATION_TOLERANCE
from mvtrack.video.images import ImageVideo
from mvtrack.video.reader import open_video
from mvtrack.video.video import Video

TRACKS, CAPTIONS = "tracks.npz", "metadata.csv"
LOOKED_AT = 50  # folders, to recognise a layout
_SAME_RATE = 0.01
_PHOTO_FPS = 24.0  # of a single frame, where it means nothing
FrameMaps = Callable[[int], Tensor]  # the first n frames' maps, (n, H, W)


@dataclass(frozen=True)
class SceneView:
    """One view: its frames (one for a photograph), and what is known of each in the picture's own pixels.

    camera: (T,), float64. depth: z-depth in the camera's unit, 0 where there is none. masks: what moves, or what is
    annotated.
    """

    name: str
    video: Video
    camera: Camera | None = None
    depth: FrameMaps | None = None
    masks: FrameMaps | None = None

    def __post_init__(self) -> None:
        if self.camera is None:
            return
        if self.camera.size != self.video.size:
            raise ValueError(
                f"{self.video.path}: its camera is for pictures of {_shown(self.camera.size)}, it is "
                f"{_shown(self.video.size)} (width x height)"
            )
        if tuple(self.camera.shape) != (len(self.video),):
            raise ValueError(f"{self.video.path} has {len(self.video)} frames, {self.camera.shape[0]} cameras")
        rotation = self.camera.c2w[:, :3, :3]
        error = (rotation.mT @ rotation - torch.eye(3, dtype=rotation.dtype)).abs().amax((1, 2))
        bad = ~(error < ROTATION_TOLERANCE) | ~(torch.linalg.det(rotation) > 0)
        if bad.any():
            raise ValueError(f"{self.video.path}: the rotation of frame {int(bad.nonzero()[0])}'s camera is none")


def _shown(size: tuple[int, int]) -> str:
    return f"{size[1]}x{size[0]}"


class PointTracks(NamedTuple):
    """Tracks in the pixels of each view's own pictures. found: the point has a meaning in this view."""

    xy: Float[Tensor, "V T N 2"]
    visible: Bool[Tensor, "V T N"]
    found: Bool[Tensor, "V N"]


@dataclass(frozen=True)
class MultiViewScene:
    """Views of the same moments; or, where `is_still`, photographs of what does not move, one a view.

    tracks: reads them, where there are any. is_path: the photographs are frames of one camera path, in order.
    """

    name: str
    views: tuple[SceneView, ...]
    is_still: bool = False
    is_path: bool = False
    tracks: Callable[[], PointTracks] | None = None

    def select(self, order: list[int]) -> "MultiViewScene":
        """The same scene with a selection of views, in the order given; their tracks follow."""
        read = self.tracks

        def tracks() -> PointTracks:
            xy, visible, found = read()
            return PointTracks(xy[order], visible[order], found[order])

        return replace(self, views=tuple(self.views[i] for i in order), tracks=read and tracks)


@dataclass(frozen=True)
class SceneFiles:
    """A scene that was found and not yet opened. name: unique in the dataset, and a file's name. detail: what of the
    path's files it is, and what options said. domain: the kind of its pictures, where scenes of a dataset differ."""

    name: str
    path: Path
    detail: tuple[str | int | float, ...] = ()
    tracks: Path | None = None
    captions: tuple[str, ...] = ()  # none, one of all views, or one of each
    domain: str = ""

    def __post_init__(self) -> None:
        safe_name(self.name, self.path)


class Fitting(NamedTuple):
    """How well a folder fits a layout: where its scenes would lie, and which of its signs are there."""

    base: str
    there: tuple[str, ...]
    missing: tuple[str, ...]


class DatasetLayout(ABC):
    """One dataset. bases: folders below the root that may be scenes, as patterns. signs: what each scene holds.

    domain: the kind of its pictures, such as rendered or photo. options: those of `DatasetOptions` that it alone uses.
    """

    name: str
    title: str
    domain: str = ""
    bases: tuple[str, ...] = ("*", ".")
    signs: tuple[str, ...]
    options: tuple[str, ...] = ()

    def fitting(self, root: Path) -> Fitting:
        """The base under which most signs are met, by one scene at least."""
        best = Fitting(self.bases[0], (), self.signs)
        for base in self.bases:
            for folder in islice(_folders(root, base), LOOKED_AT):
                there = tuple(sign for sign in self.signs if next(folder.glob(sign), None) is not None)
                if len(there) > len(best.there):
                    best = Fitting(base, there, tuple(sign for sign in self.signs if sign not in there))
                if len(there) == len(self.signs):
                    return best
        return best

    def scenes(self, root: Path, options: DatasetOptions) -> list[SceneFiles]:
        """All scenes in a stable order, by their names. Raises ValueError where there is none."""
        folders = sorted({folder for base in self.bases for folder in _folders(root, base)})
        found = [SceneFiles(self.scene_name(root, folder), folder) for folder in folders if self.is_scene(folder)]
        return in_order(found, root, options)

    def is_scene(self, folder: Path) -> bool:
        """Whether a folder is a scene, be it a broken one."""
        return next(folder.glob(self.signs[0]), None) is not None

    def scene_name(self, root: Path, folder: Path) -> str:
        """A scene's folder from the root on, as one word."""
        parts = folder.relative_to(root).parts or (folder.resolve().name,)
        return "_".join(parts)

    @abstractmethod
    def files(self, scene: SceneFiles) -> list[Path]:
        """All that its pictures, cameras and depth are made of, in a stable order."""

    def track_files(self, scene: SceneFiles) -> list[Path]:
        """What its tracks are made of; none: it has none."""
        return [] if scene.tracks is None else [scene.tracks]

    @abstractmethod
    def read(self, scene: SceneFiles) -> MultiViewScene:
        """Open a scene. Raises ValueError that names the file and what is wrong with it."""


def _folders(root: Path, base: str) -> Iterable[Path]:
    if base == ".":
        return [root]
    return (path for path in root.glob(base) if path.is_dir() and not path.name.startswith("."))


def in_order(found: list[SceneFiles], root: Path, options: DatasetOptions) -> list[SceneFiles]:
    """Scenes in natural order of their names, with tracks (in a scene, or in a folder of their own) and captions."""
    if not found:
        raise ValueError(f"{root} holds no scenes")
    names, captions = [scene.name for scene in found], options.captions or root / CAPTIONS
    table = read_captions(captions) if options.captions or captions.is_file() else {}
    twice = {name for name in names if names.count(name) > 1} if len(set(names)) < len(names) else set()
    if twice:
        raise ValueError(f"{root} holds several scenes of the name {min(twice)}: prepare them as folders of their own")
    return [_annotated(found[i], options.tracks, table) for i in natural_order(names)]


def _annotated(scene: SceneFiles, folder: Path | None, captions: dict[str, str]) -> SceneFiles:
    own = scene.path / TRACKS if folder is None else folder / f"{scene.name}.npz"
    caption = captions.get(scene.name)
    return replace(scene, tracks=own if own.is_file() else None, captions=() if caption is None else (caption,))


def photograph(path: Path, camera: Camera, depth: FrameMaps | None = None, masks: FrameMaps | None = None) -> SceneView:
    """A picture with its camera (no leading shape)."""
    return SceneView(path.stem, ImageVideo.of(path, [path], _PHOTO_FPS), camera[None], depth, masks)


def open_videos(paths: list[Path]) -> list[Video]:
    """Videos of the same moments. Raises ValueError where their lengths or rates differ."""
    videos = [open_video(path) for path in paths]
    if len({len(video) for video in videos}) > 1:
        shown = ", ".join(f"{video.path.name} {len(video)}" for video in videos)
        raise ValueError(f"{paths[0].parent}: all videos must have the same number of frames, got {shown}")
    rates = [video.fps for video in videos]
    if max(rates) > (1 + _SAME_RATE) * min(rates):
        shown = ", ".join(f"{video.path.name} {video.fps:g}" for video in videos)
        raise ValueError(f"{paths[0].parent}: all videos must have the same frame rate, got {shown} frames a second")
    return videos


def tracks_from_file(path: Path, num_views: int) -> PointTracks:
    """`tracks.npz`: xy (V, T, N, 2) in each view's own pixels, visible (V, T, N), found (V, N)."""
    xy, visible, found = (torch.from_numpy(array) for array in read_arrays(path, "xy", "visible", "found"))
    shape = tuple(xy.shape)
    if xy.ndim != 4 or shape[0] != num_views or shape[3] != 2:
        raise ValueError(f"{path}: xy must be ({num_views} views, frames, points, 2), got {shape}")
    if tuple(visible.shape) != shape[:3] or tuple(found.shape) != (shape[0], shape[2]):
        raise ValueError(
            f"{path}: visible must be {shape[:3]} and found {(shape[0], shape[2])} like xy, got "
            f"{tuple(visible.shape)} and {tuple(found.shape)}"
        )
    return PointTracks(xy.float(), visible.bool(), found.bool())


def read_captions(path: Path) -> dict[str, str]:
    """A table with the columns file_name and text, by file name."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            rows = csv.DictReader(file)
            missing = [name for name in ("file_name", "text") if name not in (rows.fieldnames or ())]
            if missing:
                raise ValueError(f"has no column {missing[0]}: expected file_name,text")
            return {row["file_name"].strip().removeprefix("./"): (row["text"] or "").strip() for row in rows}
    except (OSError, UnicodeDecodeError, csv.Error, ValueError, AttributeError) as error:
        raise ValueError(f"{path}: cannot be read as a table of captions ({error})") from None


def scene_tracks(scene: SceneFiles, num_views: int) -> Callable[[], PointTracks] | None:
    """Reads the tracks file of a scene, where it has one."""
    return None if scene.tracks is None else lambda: tracks_from_file(scene.tracks, num_views)
