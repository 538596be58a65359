"""What tracking writes: tracks.npz, tracks.csv, and the videos with the tracks drawn onto them."""

import csv
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import torch

from mvtrack.data.visualize.drawing import DrawnTracks, overlay_frames, rainbow
from mvtrack.data.visualize.panels import title_bar
from mvtrack.inference.tracking.pipeline import VideoTracks
from mvtrack.video.video import Video
from mvtrack.video.writer import VideoWriter

_LEAST_WIDTH = 512
_SIDE_BY_SIDE_HEIGHT = 720  # at most
_CHUNK = 16  # frames held at a time
_GAP_PX = 8


def write_tracks(folder: Path, tracks: VideoTracks, views: dict[str, Video]) -> list[Path]:
    """Write everything into an existing folder; views: every view's name and video, in the tracks' order.

    Returns the files: tracks.npz, tracks.csv, tracks_<view>.mp4 and, of several views, tracks_side_by_side.mp4.
    """
    fps = next(iter(views.values())).fps
    files = [write_npz(folder / "tracks.npz", tracks, tuple(views), fps)]
    files.append(write_csv(folder / "tracks.csv", tracks, tuple(views)))
    for i, (name, footage) in enumerate(views.items()):
        path = folder / f"tracks_{name}.mp4"
        with VideoWriter(path, fps) as writer:
            for frame in overlay(footage, tracks, i, overlay_size(footage.size)):
                writer.append(frame)
        files.append(path)
    if len(views) > 1:
        files.append(_write_side_by_side(folder / "tracks_side_by_side.mp4", tracks, views, fps))
    return files


def write_npz(path: Path, tracks: VideoTracks, views: tuple[str, ...], fps: float) -> Path:
    """All fields of `VideoTracks` as arrays, the views' names and sizes (H, W), and the frame rate; no pickles."""
    fields = ("xy", "visible", "score", "followed", "found", "start", "query", "shift", "kept")
    arrays = {name: getattr(tracks, name).numpy() for name in fields}
    np.savez_compressed(
        path, **arrays, id=np.array(tracks.names), view=np.array(views), size=np.array(tracks.sizes), fps=fps
    )
    return path


def write_csv(path: Path, tracks: VideoTracks, views: tuple[str, ...]) -> Path:
    """One row per point, view and frame, of all views in which the point was found."""
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["id", "view", "frame", "x", "y", "visible", "score", "followed"])
        for n, point in enumerate(tracks.names):
            for v, view in enumerate(views):
                if not tracks.found[v, n]:
                    continue
                columns = (tracks.xy[v, :, n], tracks.visible[v, :, n], tracks.score[v, :, n], tracks.followed[v, :, n])
                for t, ((x, y), seen, score, followed) in enumerate(zip(*(c.tolist() for c in columns), strict=True)):
                    row = [f"{x:.2f}", f"{y:.2f}", int(seen), f"{score:.3f}", int(followed)]
                    writer.writerow([point, view, t, *row])
    return path


def overlay_size(size: tuple[int, int], height: int | None = None) -> tuple[int, int]:
    """(H, W) at which a video of `size` is drawn onto: its own, or so many times larger that dots can be told apart;
    with a height, that one."""
    if height is not None:
        return height, max(1, round(size[1] * height / size[0]))
    times = max(1, -(-_LEAST_WIDTH // size[1]))
    return size[0] * times, size[1] * times


def overlay(footage: Video, tracks: VideoTracks, view: int, size: tuple[int, int]) -> Iterator[np.ndarray]:
    """A view's frames at `size` (H, W) with its tracks; a point has one colour in all views, by its query's row."""
    scale = torch.tensor([size[1] / footage.size[1], size[0] / footage.size[0]])
    drawn = DrawnTracks(
        tracks.xy[view] * scale, tracks.visible[view], rainbow(tracks.query[:, 2]), tracks.followed[view]
    )
    return overlay_frames(_frames(footage, size), drawn)


def _frames(footage: Video, size: tuple[int, int]) -> Iterator[np.ndarray]:
    """8-bit frames, magnified by the same filter whatever decodes them."""
    shrunk = size if size[0] < footage.size[0] else None
    for start in range(0, len(footage), _CHUNK):
        part = footage.read(start, min(start + _CHUNK, len(footage)), shrunk)
        for frame in part.permute(0, 2, 3, 1).numpy():
            yield cv2.resize(np.ascontiguousarray(frame), size[::-1], interpolation=cv2.INTER_CUBIC)


def _write_side_by_side(path: Path, tracks: VideoTracks, views: dict[str, Video], fps: float) -> Path:
    height = min(_SIDE_BY_SIDE_HEIGHT, max(overlay_size(footage.size)[0] for footage in views.values()))
    sizes = [overlay_size(footage.size, height) for footage in views.values()]
    panels = [overlay(f, tracks, v, size) for v, (f, size) in enumerate(zip(views.values(), sizes, strict=True))]
    bars = [title_bar([name], width) for name, (_, width) in zip(views, sizes, strict=True)]
    with VideoWriter(path, fps) as writer:
        for frames in zip(*panels, strict=True):
            columns = [np.concatenate(pair) for pair in zip(bars, frames, strict=True)]
            gap = np.full((len(columns[0]), _GAP_PX, 3), 255, np.uint8)
            writer.append(np.concatenate([x for column in columns for x in (column, gap)][:-1], 1))
    return path
