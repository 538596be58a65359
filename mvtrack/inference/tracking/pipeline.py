"""From points that someone asks for to their tracks in the pixels of every video: the steps in order."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from mvtrack.geometry.camera import Camera
from mvtrack.inference.tracking.anchors import Anchored, move_to_anchors
from mvtrack.inference.tracking.cross_view_init import Starts, no_starts, starts_by_depth
from mvtrack.inference.tracking.points import Points, seen_region, to_model, to_source
from mvtrack.inference.tracking.windowed_tracker import (
    FeatureSource,
    FindStarts,
    TrackQuery,
    WindowedTracker,
    WindowedTracks,
    attention_starts,
)
from mvtrack.inference.tracking.windows import Windows
from mvtrack.video.resize import Fit
from mvtrack.video.video import Video
from tracking_head import Features, Tracker


@dataclass(frozen=True)
class VideoTracks:
    """N points in V videos; positions in the raster pixels of each video at its own size.

    found: the point was found in the view at all. followed: at this frame it was; elsewhere xy is only held. score:
    probability of being visible. query: frame, x, y as asked for in the first video;
    shift: by how many frames each query was moved to an anchor; kept: no anchor nearby was reached for sure, so its
    place there is a guess. start: frame, x, y at which it was taken up in each view (frame -1: never).
    """

    names: tuple[str, ...]
    xy: Float[Tensor, "V T N 2"]
    visible: Bool[Tensor, "V T N"]
    score: Float[Tensor, "V T N"]
    followed: Bool[Tensor, "V T N"]
    found: Bool[Tensor, "V N"]
    start: Float[Tensor, "V N 3"]
    query: Float[Tensor, "N 3"]
    shift: Int[Tensor, "N"]
    kept: Bool[Tensor, "N"]
    sizes: tuple[tuple[int, int], ...]

    def notes(self) -> list[str]:
        """What whoever asked should know."""
        notes, points = [], len(self.names)
        moved = int((self.shift != 0).sum())
        if moved:
            far = int(self.shift.abs().max())
            notes.append(f"{moved} of {points} points were moved to the nearest latent frame, by up to {far} frames")
        if self.kept.any():
            kept = int(self.kept.sum())
            notes.append(f"{kept} of them could not be followed there for sure: their places are guesses")
        for view in range(1, len(self.found)):
            missing = points - int(self.found[view].sum())
            if missing:
                notes.append(f"{missing} of {points} points were not found in view {view}")
        return notes


def track_points(
    tracker: Tracker, source: FeatureSource, points: Points, footage: Video, fits: list[Fit],
    find_starts: FindStarts = attention_starts, on_window: Callable[[int], None] = lambda total: None,
) -> VideoTracks:  # fmt: skip
    """Follow points of the first video (`footage`) through all views of `source`.

    fits: how each view's video meets the model's picture. on_window: called after every window with how many there
    are to do.
    """
    windows = source.windows
    anchored = move_to_anchors(footage, points.txy, windows.all_anchors(), seen_region(fits[0]))
    follower = WindowedTracker(tracker, source, _query(anchored, windows, fits[0]), find_starts)
    followed = follower.follow(lambda: on_window(follower.steps))
    return _in_video_pixels(followed, points, anchored, fits)


def _query(anchored: Anchored, windows: Windows, fit: Fit) -> TrackQuery:
    window, latent = torch.tensor([windows.central_window(frame) for frame in anchored.frame.tolist()]).unbind(-1)
    return TrackQuery(window, torch.cat([latent[:, None].float(), to_model(anchored.xy, fit)], -1))


def _in_video_pixels(followed: WindowedTracks, points: Points, anchored: Anchored, fits: list[Fit]) -> VideoTracks:
    xy = torch.stack([to_source(view, fit) for view, fit in zip(followed.tracks.xy, fits, strict=True)])
    start_xy = torch.stack([to_source(view[:, 1:], fit) for view, fit in zip(followed.start, fits, strict=True)])
    size = torch.tensor([fit.source for fit in fits])[:, None, None]
    inside = (xy >= 0).all(-1) & (xy[..., 0] < size[..., 1]) & (xy[..., 1] < size[..., 0])
    return VideoTracks(
        names=points.names,
        xy=xy,
        visible=followed.tracks.visible & inside,
        score=followed.score,
        followed=followed.followed,
        found=followed.tracks.valid,
        start=torch.cat([followed.start[..., :1], start_xy], -1),
        query=points.txy,
        shift=anchored.shift,
        kept=anchored.kept,
        sizes=tuple(fit.source for fit in fits),
    )


def depth_starts(
    depth: Callable[[int], Float[Tensor, "H W"]], camera: Camera, windows: Windows, views: int
) -> FindStarts:
    """Starts by projection: depth gives the first view's z-depth at a video frame, for the model's picture.

    Points are projected out of the first view only; camera: (V, T) for the model's picture, in the depth's unit.
    """

    def find(window: int, features: Features, txy: Float[Tensor, "n 3"], source: int) -> Starts:
        if source != 0:
            return no_starts(views, len(txy))
        anchors = windows.anchors(window)
        maps = torch.stack([depth(frame) for frame in anchors.tolist()])
        return starts_by_depth(txy, maps, camera[:, anchors])

    return find
