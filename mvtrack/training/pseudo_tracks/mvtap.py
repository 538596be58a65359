"""MV-TAP over all views of a clip together (MVTrack4Gen A.1)."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from mvtrack.geometry.camera import Camera
from mvtrack.inference.memory.memory_tracker import allocate_fake, fake_tensors
from mvtrack.models.weights.checkpoint import open_checkpoint
from mvtrack.training.pseudo_tracks.scene_model import CrossViewStarts, ViewStarts
from mvtrack.training.pseudo_tracks.views import ClipViews, FrameTracks, GridQueries, QueryFrame
from mvtrack.video.resize import fit_to
from tracking_head import MVTAP, Cameras, Features, MVTAPConfig, Queries, Tracker, load_released
from tracking_head.encoder import STRIDE
from tracking_head.mvtap import INPUT_SIZE

_THRESHOLD = 0.6  # of visibility x confidence, as MV-TAP's own evaluation has it
_CHUNK = 16  # frames read at a time
_PARTS_BYTES = 2**30  # volumes, products and activations that exist a part at a time, on a GPU


def load_mvtap(path: Path, device: torch.device) -> MVTAP:
    """Released weights from the authors' file. Raises ValueError that names it when it does not hold them all."""
    checkpoint = open_checkpoint(path)
    state = {name: checkpoint.read(name) for name in checkpoint.tensors}
    return load_released(state, where=str(path)).to(device)


class MVTAPTracker:
    """starts: where points begin in views that are not the query's. Videos are stretched to `size`, as in training."""

    def __init__(self, model: MVTAP, starts: CrossViewStarts, size: tuple[int, int] = INPUT_SIZE) -> None:
        self.model, self.starts, self.size = model, starts, size
        self.tracker = Tracker(model, _THRESHOLD, weigh_confidence=True)

    def follow(self, views: ClipViews, queries: GridQueries, frames: Sequence[QueryFrame]) -> Iterator[FrameTracks]:
        """Tracks of each query frame, in order. Its view comes first, for MV-TAP's camera frame hangs on the first."""
        for view in sorted({frame.view for frame in frames}):
            order = views.first(view)
            seen = views.ordered(order)
            numbers = [frame.frame for frame in frames if frame.view == view]
            starts = self.starts.find(seen, numbers, queries.points(views.videos[view].size))
            features = self._features(seen)
            resized = [camera.resized(self.size) for camera in seen.cameras]
            cameras = Camera.stack(resized).to(dtype=torch.float32)
            for start in starts:
                yield self._track(seen, features, Cameras(cameras.c2w, cameras.K), start).views(order)

    @torch.no_grad()
    def _features(self, views: ClipViews) -> Features:
        """On the model's device, written in place: they are what takes the memory."""
        height, width = self.size
        shape = (len(views.videos), views.num_frames, height // STRIDE, width // STRIDE, 1, self.model.config.width)
        device = next(self.model.parameters()).device
        maps = torch.empty(shape, device=device)
        for view, video in enumerate(views.videos):
            fit = fit_to(video.size, self.size, "stretch")
            for start in range(0, len(video), _CHUNK):
                part = slice(start, min(start + _CHUNK, len(video)))
                pictures = fit.apply(video.read(part.start, part.stop, fit.scaled))
                maps[view, part] = self.model.encode(pictures[None]).q[0]
        return Features(maps, maps, STRIDE)

    def _track(self, views: ClipViews, features: Features, cameras: Cameras, start: ViewStarts) -> FrameTracks:
        seen = start.found.any(1)  # a view in which nothing begins has no part in it
        size = torch.tensor([video.size[::-1] for video in views.videos])[:, None]
        scale = torch.tensor(self.size[::-1]) / size  # (V, 1, 2)
        txy = torch.cat([start.txy[..., :1], start.txy[..., 1:] * scale], -1)
        part = features if seen.all() else _views_of(features, seen)
        queries = Queries(txy[seen], start.found[seen], views.num_frames, self.size)
        tracks = self.tracker(part, queries, Cameras(*(x[seen] for x in cameras)))
        count = (len(seen), *tracks.visible.shape[1:])
        xy, visible = torch.zeros(*count, 2), torch.zeros(count, dtype=torch.bool)
        xy[seen], visible[seen] = tracks.xy / scale[seen][:, None], tracks.visible
        return FrameTracks(xy, visible, start.found)


def _views_of(features: Features, seen: Tensor) -> Features:
    maps = features.q[seen.to(features.q.device)]
    return Features(maps, maps, features.token_px)


def mvtap_flops(config: MVTAPConfig, views: int, frames: int, points: int, size: tuple[int, int] = INPUT_SIZE) -> float:
    """Of tracking the points of a first frame, in float32: features of all frames, and windows that overlap by half.

    The encoder and one update of a window are counted by running them without storage; correlation by its shapes.
    """
    head, length = config.head, config.window
    with torch.device("meta"):
        model = MVTAP(config).eval()
    with fake_tensors(), torch.no_grad():
        allocate_fake(model, torch.float32)
        with FlopCounterMode(display=False) as encoding:
            model.encode(torch.empty(1, 1, 3, *size))
        tokens, valid = torch.empty(1, views, points, length, head.token_dim), torch.ones(1, views, points).bool()
        with FlopCounterMode(display=False) as update:
            model.head.transformer(tokens, valid)
    area = head.correlation.offsets**2
    per_point = area * config.width + area * head.correlation_hidden + head.correlation_hidden * head.correlation_dim
    correlation = 2 * per_point * head.correlation.levels * views * points * length
    windows = 2 + max(0, -(-(frames - length) // (length // 2)))  # one of them backward
    updates = windows * head.iterations * (update.get_total_flops() + correlation)
    return views * frames * encoding.get_total_flops() + updates


def mvtap_bytes(config: MVTAPConfig, views: int, frames: int, points: int, size: tuple[int, int] = INPUT_SIZE) -> int:
    """About what tracking takes on the device beside the weights; it does not grow with the number of query frames."""
    head, tokens = config.head, (size[0] // STRIDE) * (size[1] // STRIDE)
    features = views * frames * tokens * config.width * 4 / 3  # with the pyramid
    supports = views * points * head.correlation.levels * head.correlation.offsets * config.width
    window = views * points * config.window * (4 * head.token_dim + 6 * head.dim)
    return int(4 * (features + supports + window)) + _PARTS_BYTES
