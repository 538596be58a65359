"""Points followed through all windows of a video, in every view: each window goes on where its neighbour left off.

A point begins in the window of its query and is handed on, forward and backward, at the anchor of the overlap where it
is seen best. Where a view has lost it, it is looked for again: from another view of the same window, or by attention
from its own query. Until it is found, it counts as hidden there.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from mvtrack.correspondence.matching import sample_around
from mvtrack.data.clip import TEMPORAL_STRIDE
from mvtrack.inference.tracking.cross_view_init import Starts, best_match, inside, starts_by_attention
from mvtrack.inference.tracking.windows import Windows, without_padding
from tracking_head import Cameras, Features, Queries, Tracker, Tracks

FindStarts = Callable[[int, Features, Float[Tensor, "n 3"], int], Starts]
_NOWHERE = -1


@dataclass(frozen=True)
class TrackQuery:
    """N points of view 0 at anchors: the window each begins in, and (latent frame, x, y) there, in model pixels."""

    window: Int[Tensor, "N"]
    txy: Float[Tensor, "N 3"]


@dataclass(frozen=True)
class FeatureSource:
    """Features of every window of a scene, made when asked for, with cameras where the head takes them.

    size: (H, W) of the model's picture, in all views.
    """

    windows: Windows
    num_views: int
    size: tuple[int, int]
    read: Callable[[int], tuple[Features, Cameras | None]]


@dataclass(frozen=True)
class WindowedTracks:
    """Tracks at video rate in model pixels; `tracks.valid` says whether a point was found in a view at all.

    score: probability of being visible (`Tracker.score`). followed: frames of windows in which the
    view had a start; elsewhere the nearest followed position is held and the point counts as hidden. start: video
    frame, x, y at which it was first taken up in each view.
    """

    tracks: Tracks
    score: Float[Tensor, "V T N"]
    followed: Bool[Tensor, "V T N"]
    start: Float[Tensor, "V N 3"]


@dataclass(frozen=True)
class _Template:
    """What is kept of a frame in which points began, to find them again in windows far away."""

    view: int
    points: Int[Tensor, "n"]
    query: Float[Tensor, "n 4 heads d"]
    xy: Float[Tensor, "n 2"]
    keys: Float[Tensor, "h w heads d"]


def attention_starts(window: int, features: Features, txy: Float[Tensor, "n 3"], source: int) -> Starts:
    """The way to find starts that needs nothing but the features (`FindStarts`)."""
    return starts_by_attention(features, txy, source)


class WindowedTracker:
    """One pass over a video. find_starts: how points of one view are found in the others, given window, features,
    (latent frame, x, y) and view."""

    def __init__(
        self, tracker: Tracker, source: FeatureSource, query: TrackQuery, find_starts: FindStarts = attention_starts
    ) -> None:
        self.tracker, self.source, self.query, self.find_starts = tracker, source, query, find_starts
        self.windows = source.windows
        shape = (source.num_views, self.windows.num_frames, len(query.window))
        self.xy = torch.zeros(*shape, 2)
        self.score = torch.zeros(shape)
        self.followed = torch.zeros(shape, dtype=torch.bool)
        self.start = torch.full((shape[0], shape[2], 3), float(_NOWHERE))
        self.templates: list[_Template] = []

    @property
    def steps(self) -> int:
        """How many windows `follow` will visit, some of them twice."""
        return len(self.windows.spans) - int(self.query.window.min()) + int(self.query.window.max())

    def follow(self, on_window: Callable[[], None] = lambda: None) -> WindowedTracks:
        """Follow all points through all views; on_window is called after every window."""
        first, last = int(self.query.window.min()), int(self.query.window.max())
        for order, step in ((range(first, len(self.windows.spans)), 1), (range(last - 1, -1, -1), -1)):
            for window in order:
                self._visit(window, step)
                on_window()
        visible = self._visible()
        self._hold()
        tracks = Tracks(self.xy, visible, self.followed.any(1))
        return WindowedTracks(tracks, self.score * self.followed, self.followed, self.start)

    def _visit(self, window: int, step: int) -> None:
        """One window, for the points that begin in it or reach it going forward (step 1), or going backward (-1)."""
        home = self.query.window
        active = home <= window if step > 0 else home > window
        if active.any():
            features, cameras = self.source.read(window)
            txy, valid, handed = self._starts(window, features, active)
            self._track(window, features, cameras, txy, valid, self._written(window, handed, step))

    def _starts(
        self, window: int, features: Features, active: Bool[Tensor, "N"]
    ) -> tuple[Float[Tensor, "V N 3"], Bool[Tensor, "V N"], Int[Tensor, "V N"]]:
        """(latent frame, x, y) of every point in every view, whether there is one, and the video frame at which it was
        handed on (-1: it was not)."""
        anchors = self.windows.anchors(window)
        begins = self.query.window == window
        candidates = (self._visible()[:, anchors] & (active & ~begins)) * self.score[:, anchors]
        best, frame = candidates.max(1)  # (V, N)
        valid, handed = best > 0, torch.where(best > 0, anchors[frame], _NOWHERE)
        xy = self.xy[:, anchors].gather(1, frame[:, None, :, None].expand(-1, -1, -1, 2))[:, 0]
        txy = torch.cat([frame[..., None].to(xy), xy], -1)
        txy[0, begins], valid[0, begins] = self.query.txy[begins], True
        self._relocalize(features, txy, valid, active & ~valid.any(0))
        self._initialize_other_views(window, features, txy, valid)
        if len(self.windows.spans) > 1:
            self._store_templates(features, txy, valid & begins)
        new = valid & (self.start[..., 0] == _NOWHERE)
        self.start[new] = torch.cat([anchors[txy[..., 0].long()][..., None].to(txy), txy[..., 1:]], -1)[new]
        return txy, valid, handed

    def _initialize_other_views(self, window: int, features: Features, txy: Tensor, valid: Tensor) -> None:
        """Fill in starts of points that some views have and others lack."""
        for source in range(len(valid)):
            asked = (valid[source] & ~valid.all(0)).nonzero()[:, 0]
            if len(asked) == 0:
                continue
            starts = self.find_starts(window, features, txy[source, asked], source)
            gained = starts.found & ~valid[:, asked]
            txy[:, asked] = torch.where(gained[..., None], starts.txy, txy[:, asked])
            valid[:, asked] |= gained

    def _relocalize(self, features: Features, txy: Tensor, valid: Tensor, lost: Bool[Tensor, "N"]) -> None:
        """Look for points that no view handed on, by the features of the frames in which they began."""
        for template in self.templates:
            mine = lost[template.points].nonzero()[:, 0]
            if len(mine) == 0:
                continue
            found = best_match(features, template.view, template.query[mine], template.keys, template.xy[mine])
            txy[template.view, template.points[mine]], valid[template.view, template.points[mine]] = found

    def _store_templates(self, features: Features, txy: Tensor, fresh: Bool[Tensor, "V N"]) -> None:
        """Keep what finds points again."""
        for view in range(len(fresh)):
            for frame in txy[view, fresh[view], 0].unique().long().tolist():
                points = (fresh[view] & (txy[view, :, 0] == frame)).nonzero()[:, 0]
                xy = txy[view, points, 1:]
                query = sample_around(features.q[view, frame], xy, features.token_px)
                self.templates.append(_Template(view, points, query, xy, features.k[view, frame].clone()))

    def _track(
        self, window: int, features: Features, cameras: Cameras | None, txy: Float[Tensor, "V N 3"],
        valid: Bool[Tensor, "V N"], mine: Bool[Tensor, "V T N"],
    ) -> None:  # fmt: skip
        """Run the head on one window and write what it says into the frames that are this window's (`mine`)."""
        views, points = valid.any(1).nonzero()[:, 0], valid.any(0).nonzero()[:, 0]
        if len(points) == 0:
            return
        part = Features(features.q[views], features.k[views], features.token_px)
        grid = views[:, None], points
        queries = Queries(txy[grid], valid[grid], features.q.shape[1], features.size)
        cameras = None if cameras is None else Cameras(*(x[views] for x in cameras))
        soft = self.tracker.soft(part, queries, cameras, TEMPORAL_STRIDE)
        start, stop = self.windows.spans[window]
        xy = without_padding(soft.xy, stop - start)
        score = without_padding(self.tracker.score(soft)[..., None], stop - start)[..., 0]

        span = slice(start, stop)
        mine = mine[:, span] & valid[:, None]
        now = mine[views][:, :, points]
        where = views[:, None, None], torch.arange(start, stop)[:, None], points
        self.xy[where] = torch.where(now[..., None], xy, self.xy[where])
        self.score[where] = torch.where(now, score, self.score[where])
        self.followed[:, span] |= mine

    def _written(self, window: int, handed: Int[Tensor, "V N"], step: int) -> Bool[Tensor, "V T N"]:
        """Frames that this window decides: all of those not followed yet, and those past the anchor of the handing on
        (of a start that was found anew: past the neighbour's frames)."""
        time = torch.arange(self.windows.num_frames)[:, None]
        spans = self.windows.spans
        if step > 0:
            neighbour = spans[window - 1][1] if window else 0
            past = time >= torch.where(handed >= 0, handed, neighbour)[:, None]
        else:
            past = time <= torch.where(handed >= 0, handed, spans[window + 1][0] - 1)[:, None]
        return past | ~self.followed | (self.query.window == window)

    def _visible(self) -> Bool[Tensor, "V T N"]:
        return self.followed & (self.score > self.tracker.threshold) & inside(self.xy, self.source.size)

    def _hold(self) -> None:
        """Where nothing was followed, the position of the nearest frame that was (the earlier of two)."""
        time = torch.arange(self.windows.num_frames)
        distance = (time[:, None] - time).abs()  # (T, T)
        for view in range(len(self.xy)):
            known = self.followed[view]
            for n in (known.any(0) & ~known.all(0)).nonzero()[:, 0].tolist():
                nearest = torch.where(known[:, n], distance, len(time)).argmin(1)
                self.xy[view, :, n] = self.xy[view, nearest, n]
