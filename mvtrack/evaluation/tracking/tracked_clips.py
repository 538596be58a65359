"""The ways in which a model's tracking head follows the points of rendered scenes with exact tracks, to be scored.

Features come from one forward on the true videos at a low noise level, as after generating (method §5).
"""

from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from mvtrack.data.clip import TEMPORAL_STRIDE, Clip
from mvtrack.inference.tracking.cross_view_init import Starts, starts_by_depth
from mvtrack.inference.tracking.features import view_features
from mvtrack.inference.tracking.scene import require_head
from mvtrack.inference.tracking.subpixel_refine import refined_attention
from mvtrack.inference.tracking.windowed_tracker import FeatureSource, FindStarts, TrackQuery, WindowedTracker
from mvtrack.inference.tracking.windows import Windows
from mvtrack.models.conditioning import Window, head_cameras
from mvtrack.models.reshoot_model import ReshootModel
from tracking_head import Cameras, Features, Queries, Tracker, Tracks, queries_from_truth


@dataclass(frozen=True)
class TrackedClip:
    """A clip's predicted and true tracks at video rate, and at which video frame each point was queried.

    start: video frame, x, y from which each point was followed in each view; frame -1 where none was found. features,
    queries, cameras: what the head was given.
    """

    clip: Clip
    predicted: Tracks
    truth: Tracks
    query_frame: Float[Tensor, "V N"]
    start: Float[Tensor, "V N 3"]
    features: Features
    queries: Queries
    cameras: Cameras | None


def draw_queries(truth: Tracks, size: tuple[int, int], seed: int) -> Queries:
    """One anchor per point and view at which it can be seen; points that a view never shows have no query there."""
    anchored = truth.frames(slice(None, None, TEMPORAL_STRIDE))
    txy, valid = queries_from_truth(anchored, torch.Generator().manual_seed(seed))
    return Queries(txy, valid, anchored.xy.shape[1], size)


def track_clip(model: ReshootModel, clip: Clip, seed: int = 0) -> TrackedClip:
    """Follow the clip's true points from random visible anchors, both views at once.

    Raises ValueError for a model without a tracking head.
    """
    tracker = require_head(model)
    features = view_features(model, clip.video, Window(clip.camera, clip.scene_depth), seed=seed)
    queries = draw_queries(clip.tracks, tuple(clip.video.shape[-2:]), seed)
    cameras = head_cameras(clip.camera[:, ::TEMPORAL_STRIDE], model.config.tracking)
    predicted = tracker(features, queries, cameras, TEMPORAL_STRIDE)
    truth = Tracks(clip.tracks.xy, clip.tracks.visible, clip.tracks.valid & queries.valid)
    frame = queries.txy[..., 0] * TEMPORAL_STRIDE
    start = torch.cat([torch.where(queries.valid, frame, -1.0)[..., None], queries.txy[..., 1:]], -1)
    return TrackedClip(clip, predicted, truth, frame, start, features, queries, cameras)


def track_apart(tracker: Tracker, tracked: TrackedClip) -> Tracks:
    """The same queries with each view on its own, so that nothing passes between them in the head."""
    views = range(len(tracked.clip.video))
    return _stack([tracker(*_views(tracked, [v]), TEMPORAL_STRIDE) for v in views])


def track_shuffled(tracker: Tracker, tracked: TrackedClip, other: TrackedClip) -> Tracks:
    """The same queries, but whenever one view is tracked, the others are those of another clip."""
    found = []
    for v in range(len(tracked.clip.video)):
        mine, theirs = _views(tracked, [v]), _views(other, [w for w in range(len(other.clip.video)) if w != v])
        features = Features(*(torch.cat([getattr(f, n) for f in (mine[0], theirs[0])]) for n in "qk"), mine[0].token_px)
        txy, valid = (torch.cat([getattr(q, n) for q in (mine[1], theirs[1])]) for n in ("txy", "valid"))
        cameras = mine[2] and Cameras(*(torch.cat(pair) for pair in zip(mine[2], theirs[2], strict=True)))
        both = tracker(features, replace(mine[1], txy=txy, valid=valid), cameras, TEMPORAL_STRIDE)
        found.append(both.views([0]))
    return _stack(found)


def _views(tracked: TrackedClip, views: list[int]) -> tuple[Features, Queries, Cameras | None]:
    features, queries = tracked.features, tracked.queries
    part = replace(queries, txy=queries.txy[views], valid=queries.valid[views])
    cameras = tracked.cameras and Cameras(*(x[views] for x in tracked.cameras))
    return Features(features.q[views], features.k[views], features.token_px), part, cameras


def _stack(views: list[Tracks]) -> Tracks:
    return Tracks(*(torch.cat([getattr(view, name) for view in views]) for name in ("xy", "visible", "valid")))


def follow_reference(tracker: Tracker, tracked: TrackedClip, find_starts: FindStarts) -> TrackedClip:
    """Follow the reference's queries alone into every view, as a user has them; starts elsewhere have to be found.

    Points that the reference never shows are left out; `predicted.valid` says which were found.
    """
    clip, asked = tracked.clip, tracked.queries.valid[0]
    txy = tracked.queries.txy[0, asked]
    windows = Windows(((0, clip.num_frames),))
    source = FeatureSource(
        windows, len(clip.video), tracked.queries.size, lambda _: (tracked.features, tracked.cameras)
    )
    query = TrackQuery(torch.zeros(len(txy), dtype=torch.long), txy)
    followed = WindowedTracker(tracker, source, query, find_starts).follow()
    truth = Tracks(clip.tracks.xy[:, :, asked], clip.tracks.visible[:, :, asked], clip.tracks.valid[:, asked])
    frame = (txy[:, 0] * TEMPORAL_STRIDE).expand(len(clip.video), -1)
    return replace(tracked, predicted=followed.tracks, truth=truth, query_frame=frame, start=followed.start)


def true_depth_starts(clip: Clip) -> FindStarts:
    """Starts projected with the clip's true depth; occlusion in the other views by their true depth."""
    anchors = slice(None, None, TEMPORAL_STRIDE)

    def find(window: int, features: Features, txy: Float[Tensor, "n 3"], source: int) -> Starts:
        depth = clip.depth[:, anchors]
        return starts_by_depth(txy, depth[source], clip.camera[:, anchors], source, depth)

    return find


def attention_starts_of(clip: Clip) -> FindStarts:
    """Starts by attention, refined with the clip's pictures and cameras."""
    anchors = slice(None, None, TEMPORAL_STRIDE)
    return refined_attention(lambda _: clip.video[:, anchors], lambda _: clip.camera[:, anchors])


def still(tracked: TrackedClip) -> Tracks:
    """The baseline that leaves every point where it was queried, always visible."""
    frame = tracked.query_frame.long()[:, None, :, None].expand(-1, 1, -1, 2)
    xy = tracked.truth.xy.gather(1, frame).expand_as(tracked.truth.xy)
    return Tracks(xy, torch.ones_like(tracked.truth.visible), tracked.truth.valid)


def asked_in_reference(tracked: TrackedClip) -> TrackedClip:
    """The points queried in the reference, as they were followed with a true start in every view."""
    asked = tracked.queries.valid[0]
    truth = tracked.clip.tracks
    part = Tracks(truth.xy[:, :, asked], truth.visible[:, :, asked], truth.valid[:, asked])
    predicted = tracked.predicted
    predicted = Tracks(predicted.xy[:, :, asked], predicted.visible[:, :, asked], predicted.valid[:, asked])
    frame, start = tracked.query_frame[:, asked], tracked.start[:, asked]
    return replace(tracked, predicted=predicted, truth=part, query_frame=frame, start=start)
