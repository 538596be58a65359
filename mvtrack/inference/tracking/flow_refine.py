"""Tracks refined on the videos' own pixels: dense optical flow from frame to frame, checked by its way back.

A head sees pictures of the model's size, and a pixel there is ten of a 720p video's. So each point is carried from
where it starts through the full-size frames by DIS flow (Kroeger et al. 2016). Where the way back does not end where it
began, or the place no longer looks like the start, the point counts as hidden and moves as the head says; where the
head sees it, it is looked for around there.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import cv2
import numpy as np
import torch
from jaxtyping import Bool, Float, UInt8

from mvtrack.inference.tracking.pipeline import VideoTracks
from mvtrack.video.video import Video

_SHORTER_SIDE = 720  # of the frames that flow is computed on; larger ones are scaled down
_LEAST_SIDE = 32  # below which there is nothing to compute flow on
_ROUND_TRIP = 1 / 720  # of the shorter side, and a share of the way: what a step forth and back may end off
_ROUND_TRIP_SHARE = 0.1
_PATCH = 1 / 48  # of the shorter side: the patch that tells whether a place still looks like the start
_NOISE = 5.0  # of 255: standard deviation of what is no texture
_ALIKE = 0.5  # least likeness to the start
_FOUND = 0.8  # least normalised cross-correlation with the start, for a point that was hidden
_NUDGE = 0.5  # pixels, at most, by which a step is corrected along each axis
_SEARCH = 1 / 24  # of the shorter side, around where the head sees a hidden point

Points = Float[np.ndarray, "N 2"]
Grey = UInt8[np.ndarray, "H W"]


def refine_by_flow(
    tracks: VideoTracks, films: Sequence[Video], on_frame: Callable[[], None] = lambda: None
) -> VideoTracks:
    """The same points, followed through the frames of every view in which they were found.

    visible: where flow has the point. score: there, the likeness to its start in [0, 1]; elsewhere at most what the
    head said. on_frame: called after every step.
    """
    xy, visible, score = tracks.xy.clone(), tracks.visible.clone(), tracks.score.clone()
    for v, film in enumerate(films):
        scale = min(1.0, _SHORTER_SIDE / min(film.size))
        size = tuple(max(1, round(n * scale)) for n in film.size)
        if min(size) < _LEAST_SIDE or not tracks.found[v].any():
            continue
        view = _View(film, size, tracks, v)
        for step in (1, -1):
            view.walk(step, on_frame)
        xy[v], visible[v], score[v] = view.results()
    return replace(tracks, xy=xy, visible=visible, score=score, followed=tracks.followed | visible)


@dataclass
class _Walkers:
    """Points on their way. alive: flow has them; off: from the head's place, since they were last seen."""

    xy: Points
    alive: Bool[np.ndarray, "N"]
    off: Points


class _View:
    """The points of one view, in pixels of the frames that flow is computed on."""

    def __init__(self, film: Video, size: tuple[int, int], tracks: VideoTracks, view: int) -> None:
        self.film, self.size, self.frames = film, size, tracks.xy.shape[1]
        self.to_flow = np.float32(np.array(size[::-1]) / np.array(film.size[::-1]))
        self.head = tracks.xy[view].numpy() * self.to_flow
        self.head_sees, self.head_score = tracks.visible[view].numpy(), tracks.score[view].numpy()
        start = tracks.query if view == 0 else tracks.start[view]  # a query's place is known to the pixel
        self.start = start[:, 0].round().long().numpy()
        self.start[~tracks.found[view].numpy()] = -1
        self.start_xy = start[:, 1:].numpy().astype(np.float32) * self.to_flow
        self.xy, self.seen = self.head.copy(), np.zeros(self.head.shape[:2], bool)
        self.alike = self.head_score.copy()
        self.radius = max(3, round(_PATCH * min(size) / 2))
        self.looks = np.zeros((len(self.start), (2 * self.radius + 1) ** 2), np.float32)

    def walk(self, step: int, on_frame: Callable[[], None]) -> None:
        """Follow the points from their starts to the last frame (step 1) or to the first (-1)."""
        flow = cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_FAST)
        started = self.start[self.start != -1]
        order = range(started.min(), self.frames) if step > 0 else range(started.max(), -1, -1)
        going = _Walkers(self.start_xy.copy(), np.zeros(len(self.start), bool), np.zeros_like(self.start_xy))
        before, picture = None, None
        for t in order:
            before, picture = picture, self._grey(t)
            under_way = (self.start != -1) & ((self.start - t) * step < 0)
            if under_way.any():
                self._carry(going, under_way, flow, before, picture)
                self._check(going, under_way, picture, t)
            begin = self.start == t
            if begin.any():
                going.xy[begin], going.alive[begin] = self.start_xy[begin], True
                self.looks[begin] = patches(picture, self.start_xy[begin], self.radius)
                self.alike[t, begin] = 1.0
                self._keep(going, begin, t)
            if before is not None:
                on_frame()

    def results(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """xy in the video's pixels, visible, score."""
        score = np.where(self.seen, self.alike, np.minimum(self.head_score, self.alike))
        return torch.from_numpy(self.xy / self.to_flow), torch.from_numpy(self.seen), torch.from_numpy(score)

    def _grey(self, t: int) -> Grey:
        picture = self.film.read(t, t + 1, self.size)[0].permute(1, 2, 0).numpy()
        return cv2.cvtColor(np.ascontiguousarray(picture), cv2.COLOR_RGB2GRAY)

    def _carry(self, going: _Walkers, which: Bool[np.ndarray, "N"], flow, before: Grey, picture: Grey) -> None:
        """One step of all that flow has, and back."""
        mine = which & going.alive
        if not mine.any():
            return
        there = going.xy[mine] + at_points(flow.calc(before, picture, None), going.xy[mine])
        back = there + at_points(flow.calc(picture, before, None), there)
        way = np.linalg.norm(there - going.xy[mine], axis=-1)
        allowed = np.maximum(_ROUND_TRIP * min(self.size), _ROUND_TRIP_SHARE * way)
        going.alive[mine] = np.linalg.norm(back - going.xy[mine], axis=-1) <= allowed
        going.xy[mine] = there

    def _check(self, going: _Walkers, which: Bool[np.ndarray, "N"], picture: Grey, t: int) -> None:
        """Give up what looks different or left the picture; look for what the head sees."""
        alive = which & going.alive
        sure = which & going.alive & within(going.xy, self.size)
        if sure.any():
            going.xy[sure] = nudged(self.looks[sure], picture, going.xy[sure], self.radius)
        alike = likeness(self.looks, patches(picture, going.xy, self.radius))
        going.alive[alive & ((alike < _ALIKE) | ~within(going.xy, self.size))] = False
        lost = which & ~going.alive
        going.xy[lost] = (self.head[t] + going.off)[lost]
        textured = self.looks.std(-1) > 2 * _NOISE
        for n in np.flatnonzero(lost & self.head_sees[t] & textured):
            place, found = most_alike(self.looks[n], picture, going.xy[n], self.radius, round(_SEARCH * min(self.size)))
            if found >= _FOUND:
                going.xy[n], going.alive[n], alike[n] = place, True, found
        self.alike[t, which] = np.where(going.alive, alike, np.minimum(alike, _ALIKE))[which].clip(0, 1)
        self._keep(going, which, t)

    def _keep(self, going: _Walkers, which: Bool[np.ndarray, "N"], t: int) -> None:
        self.xy[t, which], self.seen[t, which] = going.xy[which], going.alive[which]
        seen = which & going.alive
        going.off[seen] = (going.xy - self.head[t])[seen]


def within(xy: Points, size: tuple[int, int]) -> Bool[np.ndarray, "N"]:
    """Whether raster coordinates lie in a picture (H, W)."""
    return ((xy >= 0) & (xy < np.float32(size[::-1]))).all(-1)


def at_points(values: Float[np.ndarray, "H W *C"], xy: Float[np.ndarray, "*n 2"]) -> Float[np.ndarray, "..."]:
    """Values (*n, *C) at raster coordinates, bilinear, borders repeated."""
    if xy.size == 0:
        return np.zeros((*xy.shape[:-1], *values.shape[2:]), np.float32)
    index = (xy - 0.5).astype(np.float32).reshape(1, -1, 2)
    pieces = [  # OpenCV takes at most 32,766 columns
        cv2.remap(values, index[:, i : i + 30_000], None, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
        for i in range(0, index.shape[1], 30_000)
    ]
    return np.concatenate(pieces, 1).reshape(*xy.shape[:-1], *values.shape[2:])


def patches(picture: Grey, xy: Points, radius: int) -> Float[np.ndarray, "N p"]:
    """Squares around points, less their mean."""
    ticks = np.arange(-radius, radius + 1, dtype=np.float32)
    around = np.stack(np.meshgrid(ticks, ticks), -1).reshape(-1, 2)
    values = at_points(picture.astype(np.float32), xy[:, None] + around)
    return values - values.mean(-1, keepdims=True)


def likeness(first: Float[np.ndarray, "*N p"], second: Float[np.ndarray, "*N p"]) -> Float[np.ndarray, "*N"]:
    """1 for equal patches, about 0 for unrelated ones; differences as small as noise count little."""
    noise = 2 * _NOISE**2 * first.shape[-1]
    energy = np.square(first).sum(-1) + np.square(second).sum(-1)
    return 1 - np.square(first - second).sum(-1) / (energy + noise)


def nudged(looks: Float[np.ndarray, "n p"], picture: Grey, xy: Points, radius: int) -> Points:
    """Places moved by a part of a pixel to where patches differ least from the start's, so that steps do not add up
    their errors: one step of Gauss and Newton (Lucas and Kanade 1981), taken where it is an improvement."""
    around = np.float32([[0, 0], [-_NUDGE, 0], [_NUDGE, 0], [0, -_NUDGE], [0, _NUDGE]])
    centre, left, right, above, below = (patches(picture, xy + offset, radius) for offset in around)
    gradient = np.stack([right - left, below - above], -1) / (2 * _NUDGE)
    normal = np.einsum("npi,npj->nij", gradient, gradient)
    damping = 1e-3 * np.trace(normal, axis1=1, axis2=2) + 1e-3
    normal += damping[:, None, None] * np.eye(2, dtype=np.float32)
    right_side = np.einsum("npi,np->ni", gradient, looks - centre)
    move = np.linalg.solve(normal, right_side[..., None])[..., 0].clip(-_NUDGE, _NUDGE).astype(np.float32)
    before, after = (np.square(looks - p).sum(-1) for p in (centre, patches(picture, xy + move, radius)))
    return np.where((after < before)[:, None], xy + move, xy)


def most_alike(
    looks: Float[np.ndarray, "p"], picture: Grey, xy: Float[np.ndarray, "2"], radius: int, reach: int
) -> tuple[Float[np.ndarray, "2"], float]:
    """The whole pixel's step from `xy`, at most `reach` far, whose patch is most like one, and how much it is."""
    side = 2 * (radius + reach) + 1
    area = cv2.getRectSubPix(picture, (side, side), tuple(float(p) for p in xy - 0.5)).astype(np.float32)
    found = cv2.matchTemplate(area, looks.reshape(2 * radius + 1, -1), cv2.TM_CCOEFF_NORMED)
    row, column = np.unravel_index(found.argmax(), found.shape)
    return xy + np.float32([column - reach, row - reach]), float(found[row, column])
