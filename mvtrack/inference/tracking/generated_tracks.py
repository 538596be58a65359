"""Tracks of a re-shot video: latents are kept while it is generated, and followed when it is done."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from mvtrack.geometry.camera import Camera
from mvtrack.inference.sampler import window_spans
from mvtrack.inference.tracking.flow_refine import refine_by_flow
from mvtrack.inference.tracking.outputs import write_tracks
from mvtrack.inference.tracking.pipeline import VideoTracks, depth_starts, track_points
from mvtrack.inference.tracking.points import points_of_video
from mvtrack.inference.tracking.scene import LatentCache, anchor_pictures, latent_source, require_head
from mvtrack.inference.tracking.subpixel_refine import refined_attention
from mvtrack.inference.tracking.windowed_tracker import FindStarts
from mvtrack.inference.tracking.windows import Windows
from mvtrack.models.prompts import Prompts
from mvtrack.models.reshoot_model import ReshootModel
from mvtrack.video.depth_file import DepthFile
from mvtrack.video.reader import open_video
from mvtrack.video.resize import Fit
from mvtrack.video.video import Video

VIEWS = ("reference", "reshot")


@dataclass(frozen=True)
class TrackPlan:
    """points: what `--tracks` names. depth: z-depth of the first video, to project points into the other views; None:
    they are found there by attention."""

    points: str
    depth: Path | None = None

    def record(self) -> dict:
        """The plan as plain values."""
        return {"points": self.points, "depth": None if self.depth is None else str(self.depth)}


class GeneratedTracks(LatentCache):
    """A context manager that keeps latents (`keep`) while a video is generated; `write` then tracks and draws.

    cameras: (2, T) for the model's picture. prompts: of every window. shown: how the result lies in the model's
    picture, where it is not that itself. Raises ValueError before anything is generated: for a model without a head,
    and for points or depth that cannot be used.
    """

    def __init__(
        self, plan: TrackPlan, model: ReshootModel, footage: Video, fit: Fit, cameras: Camera, scene_depth: float,
        prompts: Sequence[Prompts] | None = None, shown: Fit | None = None,
    ) -> None:  # fmt: skip
        self.tracker = require_head(model)
        self.points = points_of_video(plan.points, footage, fit)
        windows = Windows(tuple(window_spans(model.config, len(footage))))
        self.depth = None if plan.depth is None else DepthFile(plan.depth, footage)
        self.source = latent_source(model, self.read, cameras, windows, scene_depth, prompts)
        self.footage, self.fit, self.cameras, self.shown = footage, fit, cameras, shown or generated_fit(fit)

    def write(self, folder: Path, video: Path) -> tuple[list[Path], list[str]]:
        """Follow the points through the source and the generated `video`; returns files and notes."""
        fits, films = [self.fit, self.shown], [self.footage, open_video(video)]
        find = self._find_starts(films, fits)
        with tqdm(desc="tracking", unit="window") as bar:
            tracks = track_points(self.tracker, self.source, self.points, self.footage, fits, find, progress(bar))
        tracks = refined_tracks(tracks, films)
        views = dict(zip(VIEWS, films, strict=True))
        return write_tracks(folder, tracks, views), track_notes(self.points.notes, tracks)

    def _find_starts(self, films: list[Video], fits: list[Fit]) -> FindStarts:
        windows, cameras, depth = self.source.windows, self.cameras, self.depth
        if depth is not None:
            return depth_starts(lambda frame: depth.read(frame, self.fit), cameras, windows, len(VIEWS))
        pictures = anchor_pictures(films, fits, windows)
        return refined_attention(pictures, lambda window: cameras[:, windows.anchors(window)])


def generated_fit(fit: Fit) -> Fit:
    """How a generated video, trimmed to its content, lies in the model's picture."""
    return Fit(fit.mode, fit.content, fit.content, (0, 0), fit.content, fit.place, fit.model)


def refined_tracks(tracks: VideoTracks, films: Sequence[Video]) -> VideoTracks:
    """Tracks refined on the videos' own pixels, with a progress bar."""
    with tqdm(desc="refining tracks by optical flow", unit="frame") as bar:
        return refine_by_flow(tracks, films, bar.update)


def progress(bar: tqdm):
    """A callback for `track_points` that moves a progress bar."""

    def advance(total: int) -> None:
        bar.total = total
        bar.update()

    return advance


def track_notes(of_points: tuple[str, ...], tracks: VideoTracks) -> list[str]:
    """Everything that happened to the points on the way."""
    return [*of_points, *tracks.notes()]
