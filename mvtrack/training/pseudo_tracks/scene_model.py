"""This project's model on the views of a clip: tracks by its head, and where points of one view begin in the others.

Queries lie in one view. MV-TAP and CoTracker3 find them in no other one, so what the model's attention says of places
across views (MVTrack4Gen §4) is where they begin there, refined along epipolar lines.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from mvtrack.geometry.camera import Camera
from mvtrack.inference.tracking.anchors import move_to_anchors
from mvtrack.inference.tracking.pipeline import track_points
from mvtrack.inference.tracking.points import Points, seen_region
from mvtrack.inference.tracking.scene import anchor_pictures, footage_source, require_head
from mvtrack.inference.tracking.subpixel_refine import refined_attention
from mvtrack.inference.tracking.windowed_tracker import FeatureSource, FindStarts
from mvtrack.inference.tracking.windows import Windows, aligned_windows
from mvtrack.models.reshoot_model import ReshootModel
from mvtrack.training.pseudo_tracks.views import ClipViews, FrameTracks, GridQueries, QueryFrame
from mvtrack.video.resize import Fit, plan_fit
from tracking_head import Features


@dataclass(frozen=True)
class ModelView:
    """How the model sees views of a clip, the first one its reference."""

    fits: list[Fit]
    windows: Windows
    source: FeatureSource
    find: FindStarts


@dataclass(frozen=True)
class SceneModel:
    """subject_distance: of the scene in the reference view, in the cameras' unit."""

    model: ReshootModel
    subject_distance: float

    def look(self, views: ClipViews) -> ModelView:
        """Plan features of views; the last window's are kept, because all query frames of a short clip share it."""
        model, videos = self.model, list(views.videos)
        first = plan_fit(videos[0].size, model.config, "pad")
        fits = [first, *(plan_fit(video.size, model.config, "pad", first.model) for video in videos[1:])]
        cameras = [fit.camera(camera) for fit, camera in zip(fits, views.cameras, strict=True)]
        camera = Camera.stack(cameras).to(dtype=torch.float32)
        windows = aligned_windows(views.num_frames, model.config.num_frames)
        source = footage_source(model, videos, fits, camera, windows, self.subject_distance)
        pictures = anchor_pictures(videos, fits, windows)
        find = refined_attention(pictures, lambda window: camera[:, windows.anchors(window)])
        return ModelView(fits, windows, replace(source, read=lru_cache(maxsize=1)(source.read)), find)


def _moved(features: Features, device: torch.device) -> Features:
    """Matching is products of all tokens' features: it belongs where they are fast."""
    return Features(features.q.to(device), features.k.to(device), features.token_px)


class HeadTracker:
    """Tracks by the model's own head, all views together, as `mvtrack track` makes them before flow refines them."""

    def __init__(self, scene: SceneModel) -> None:
        self.scene, self.tracker = scene, require_head(scene.model)

    def follow(self, views: ClipViews, queries: GridQueries, frames: Sequence[QueryFrame]) -> Iterator[FrameTracks]:
        """Tracks of each query frame, in order."""
        for view in sorted({frame.view for frame in frames}):
            order = views.first(view)
            look = self.scene.look(views.ordered(order))
            xy = queries.points(views.videos[view].size)
            names = tuple(map(str, range(len(xy))))
            for frame in (frame.frame for frame in frames if frame.view == view):
                points = Points(torch.cat([torch.full((len(xy), 1), float(frame)), xy], 1), names)
                found = track_points(self.tracker, look.source, points, views.videos[view], look.fits, look.find)
                yield FrameTracks(found.xy, found.visible, found.found).views(order)


@dataclass(frozen=True)
class ViewStarts:
    """Where n points of view 0 begin in every view: (video frame, x, y) in each video's own raster pixels."""

    txy: Float[Tensor, "V n 3"]
    found: Bool[Tensor, "V n"]


class CrossViewStarts:
    """Starts by attention between two views at a time, as the model was trained; `None` as scene: in no other view."""

    def __init__(self, scene: SceneModel | None) -> None:
        self.scene = scene

    def find(self, views: ClipViews, frames: Sequence[int], xy: Float[Tensor, "n 2"]) -> list[ViewStarts]:
        """Starts of the points xy of view 0 at each of the frames."""
        asked = [torch.cat([torch.full((len(xy), 1), float(frame)), xy], 1) for frame in frames]
        shape = (len(views.videos), len(xy))
        starts = [ViewStarts(torch.zeros(*shape, 3), torch.zeros(shape, dtype=torch.bool)) for _ in frames]
        for start, txy in zip(starts, asked, strict=True):
            start.txy[0], start.found[0] = txy, True
        if self.scene is not None:
            for other in range(1, len(views.videos)):
                self._in_pair(views.ordered([0, other]), asked, [(s.txy[other], s.found[other]) for s in starts])
        return starts

    def _in_pair(self, pair: ClipViews, asked: list[Tensor], starts: list[tuple[Tensor, Tensor]]) -> None:
        """Fill in where points begin in the second of two views.

        A point that flow cannot carry to a latent frame for sure is not looked for.
        """
        look = self.scene.look(pair)
        for txy, (start, found) in zip(asked, starts, strict=True):
            anchored = move_to_anchors(pair.videos[0], txy, look.windows.all_anchors(), seen_region(look.fits[0]))
            places = [look.windows.central_window(frame) for frame in anchored.frame.tolist()]
            window, latent = torch.tensor(places).unbind(-1)
            at = torch.cat([latent[:, None].float(), look.fits[0].to_picture(anchored.xy)], -1)
            for number in window.unique().tolist():
                mine = ((window == number) & ~anchored.kept).nonzero()[:, 0]
                features = _moved(look.source.read(number)[0], self.scene.model.device)
                here = look.find(number, features, at[mine], 0)
                moment = look.windows.anchors(number)[here.txy[1, :, 0].long()]
                place = look.fits[1].to_source(here.txy[1, :, 1:])
                height, width = pair.videos[1].size
                inside = (place >= 0).all(-1) & (place[:, 0] < width) & (place[:, 1] < height)
                start[mine] = torch.cat([moment[:, None].float(), place], -1)
                found[mine] = here.found[1] & inside
