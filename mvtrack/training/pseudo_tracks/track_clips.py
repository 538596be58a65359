"""Pseudo ground-truth tracks of a folder of clips: what there is to do, doing it, and what it takes."""

import hashlib
import json
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple, Protocol, runtime_checkable

import torch
from tqdm import tqdm

from mvtrack.config.cluster import RayOptions
from mvtrack.config.datasets import DatasetOptions
from mvtrack.inference.machine import peak_gib
from mvtrack.inference.ray_pool import run_tasks
from mvtrack.training.pseudo_tracks.clips import DatasetClip, tracked_clips
from mvtrack.training.pseudo_tracks.files import TrackParts, disk_bytes
from mvtrack.training.pseudo_tracks.views import ClipViews, FrameTracks, GridQueries, QueryFrame

VERSION = 1  # raised when the same clip gets other tracks


@runtime_checkable
class ViewTracker(Protocol):
    """Follows the points of query frames through all views of a clip."""

    def follow(self, views: ClipViews, queries: GridQueries, frames: Sequence[QueryFrame]) -> Iterator[FrameTracks]:
        """Tracks of each query frame, in order."""


@dataclass(frozen=True)
class TrackJob:
    """The clips of a folder and what is asked of them. made_by: the tracker and its weights, for the clips' keys.

    overwrite: tracks that a clip has from elsewhere, or of other settings, are replaced. dataset: what the folder does
    not say of itself, and where tracks are written.
    """

    root: Path
    queries: GridQueries
    made_by: dict
    overwrite: bool = False
    dataset: DatasetOptions = DatasetOptions()

    def clips(self) -> list[DatasetClip]:
        """All clips, none of them opened."""
        return tracked_clips(self.root, self.dataset)

    def parts(self, clip: DatasetClip) -> TrackParts:
        """What there is of a clip's tracks. Raises ValueError where its files cannot be read, and for tracks that may
        not be replaced."""
        parts = TrackParts(clip.tracks, self._key(clip))
        if not self.overwrite and parts.path.exists() and not parts.are_joined():
            raise ValueError(
                f"{parts.path} holds tracks of another origin, or of other settings or files: pass --overwrite to "
                "replace them"
            )
        return parts

    def _key(self, clip: DatasetClip) -> str:
        own = {"clip": clip.contents(), "queries": asdict(self.queries), **self.made_by, "version": VERSION}
        return hashlib.sha256(json.dumps(own, sort_keys=True).encode()).hexdigest()


class TrackReport(NamedTuple):
    """How many clips were tracked now, and how many were there already. failed: what is wrong with the others."""

    tracked: int
    kept: int
    failed: tuple[str, ...]


def track_clips(
    job: TrackJob, start: Callable[[ClipViews], ViewTracker], cluster: RayOptions | None = None
) -> TrackReport:
    """Write tracks.npz of every clip that has none yet. start: makes the tracker, for clips like the one given.

    A clip that cannot be read, or lacks a query frame, is gone past; what the tracker lacks ends the work.
    """
    counts, failed, clips = {True: 0, False: 0}, [], job.clips()
    done = run_tasks(partial(_ClipTracking, job, start), clips, cluster)
    for _, fresh in tqdm(done, desc=f"tracks in {job.root}", unit="clip", total=len(clips)):
        if isinstance(fresh, _TrackerError):
            raise ValueError(str(fresh)) from fresh
        if isinstance(fresh, ValueError):
            failed.append(str(fresh))
            tqdm.write(f"left out: {fresh}", file=sys.stderr)
        else:
            counts[fresh] += 1
    return TrackReport(counts[True], counts[False], tuple(failed))


class _TrackerError(ValueError):
    """What the tracker lacks, and no other clip would help."""


class _ClipTracking:
    """Writes one clip's tracks; whether they were not there. The tracker is made for the first clip that needs it."""

    def __init__(self, job: TrackJob, start: Callable[[ClipViews], ViewTracker]) -> None:
        self.job, self.start, self.tracker = job, start, None

    def __call__(self, clip: DatasetClip) -> bool:
        parts = self.job.parts(clip)
        if parts.are_joined():
            return False
        views = clip.open()
        frames = self.job.queries.of(len(views.videos), views.num_frames)
        try:
            self.tracker = self.tracker or self.start(views)
            for _ in _track_missing(views, parts, self.job.queries, parts.missing(frames), self.tracker):
                pass
        except ValueError as error:
            raise _TrackerError(str(error)) from error
        parts.join(frames, self.job.queries, views)
        return True


def _track_missing(
    views: ClipViews, parts: TrackParts, queries: GridQueries, missing: Sequence[QueryFrame], tracker: ViewTracker
) -> Iterator[None]:
    """One step for each query frame, whose tracks are then on disk."""
    for frame, tracks in zip(missing, tracker.follow(views, queries, missing), strict=True):
        parts.write(frame, tracks.cleaned(views))
        yield


def estimate_lines(job: TrackJob, start: Callable[[ClipViews], ViewTracker], device: torch.device) -> Iterator[str]:
    """Time, memory and disk of all that is left, told from the first two query frames of the first clip, whose tracks
    are kept."""
    clips = job.clips()
    todo = [(clip, parts) for clip in clips if not (parts := job.parts(clip)).are_joined()]
    yield f"{len(clips)} clips, {len(clips) - len(todo)} of them have their tracks"
    if not todo:
        return
    clip, parts = todo[0]
    views = clip.open()
    frames = job.queries.of(len(views.videos), views.num_frames)
    shown = f"{len(views.videos)} views of {views.num_frames} frames, {len(frames)} query frames"
    yield f"if all are like {clip.name}: {shown} of {job.queries.count} points"
    points = job.queries.count * len(frames)
    need, free = len(todo) * disk_bytes(len(views.videos), views.num_frames, points), shutil.disk_usage(job.root).free
    yield f"disk: {need / 1e9:.3g} GB of tracks, {free / 1e9:.3g} GB are free"
    tracker, began, seconds = start(views), time.monotonic(), [0.0]
    for _ in _track_missing(views, parts, job.queries, parts.missing(frames)[:2], tracker):
        seconds.append(time.monotonic() - began)
    if len(seconds) > 1:
        first, each = seconds[1], seconds[-1] - seconds[1]
        hours = len(todo) * (first + (len(frames) - 1) * each) / 3600
        yield f"time: {hours:.3g} h on one device ({first:.3g} s for a clip's first query frame, {each:.3g} s for more)"
    yield f"memory: {peak_gib(device):.3g} GiB were in use at most"
