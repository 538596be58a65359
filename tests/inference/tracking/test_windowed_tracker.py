"""Points through several windows, with a tracker that knows the answer: what is tested is the handing on."""

import pytest
import torch

from mvtrack.inference.tracking.cross_view_init import Starts, no_starts
from mvtrack.inference.tracking.windowed_tracker import FeatureSource, TrackQuery, WindowedTracker
from mvtrack.inference.tracking.windows import Windows, aligned_windows
from tracking_head import Features, HeadConfig, SoftTracks, Tracker, TrackingHead

SIZE = H, W = 12, 20
PX = 4
VELOCITY = torch.tensor([0.25, 0.125])  # pixels a frame
DISPARITY = torch.tensor([[0.0, 0.0], [-2.0, 1.0]])  # of both views


class LinearTracker(Tracker):
    """Everything moves at VELOCITY; a point is seen unless `hidden` names it (view, point, first, last frame)."""

    def __init__(self, hidden: list[tuple[int, int, int, int]] | None = None) -> None:
        super().__init__(TrackingHead(HeadConfig(dim=8, heads=1, layers=1)))
        self.hidden = hidden or []
        self.asked: list[torch.Tensor] = []

    def soft(self, features, queries, cameras=None, frame_stride=1) -> SoftTracks:
        assert cameras is None
        first = int(features.q[0, 0, 0, 0, 0, 0])
        views = features.q[:, 0, 0, 0, 0, 1].long()
        self.asked.append(queries.valid)
        time = torch.arange((features.q.shape[1] - 1) * frame_stride + 1)
        since = time[:, None] - frame_stride * queries.txy[:, None, :, 0]
        xy = queries.txy[:, None, :, 1:] + since[..., None] * VELOCITY
        visible = torch.full(xy.shape[:-1], 0.9)
        for view, point, begin, end in self.hidden:
            gone = (time + first >= begin) & (time + first <= end)
            visible[(views == view).nonzero()[:, 0], gone.nonzero(), point] = 0.1
        return SoftTracks(xy, visible, torch.ones_like(visible))


def source(windows: Windows, views: int = 2) -> FeatureSource:
    """Features that carry the window's first frame and the view's number."""

    def read(window: int):
        frames = len(windows.anchors(window))
        q = torch.zeros(views, frames, H // PX, W // PX, 1, 6)
        q[..., 0] = windows.spans[window][0]
        q[..., 1] = torch.arange(views)[:, None, None, None, None]
        return Features(q, q, PX), None

    return FeatureSource(windows, views, SIZE, read)


def known_starts(window: int, features: Features, txy: torch.Tensor, from_view: int) -> Starts:
    xy = txy[None, :, 1:] + (DISPARITY - DISPARITY[from_view])[:, None]
    return Starts(torch.cat([txy[None, :, :1].expand(2, -1, -1), xy], -1), torch.ones(2, len(txy), dtype=torch.bool))


def nowhere(window: int, features: Features, txy: torch.Tensor, from_view: int) -> Starts:
    return no_starts(len(features.q), len(txy))


def query_at(windows: Windows, frames: list[int], xy: list[list[float]]) -> TrackQuery:
    window, latent = torch.tensor([windows.central_window(frame) for frame in frames]).unbind(-1)
    return TrackQuery(window, torch.cat([latent[:, None].float(), torch.tensor(xy)], -1))


def truth(frames: list[int], xy: list[list[float]], length: int) -> torch.Tensor:
    since = torch.arange(length)[:, None] - torch.tensor(frames)
    return torch.tensor(xy) + since[..., None] * VELOCITY + DISPARITY[:, None, None]


@pytest.mark.parametrize(
    "windows",
    [
        aligned_windows(29, 9),
        aligned_windows(31, 13),
        Windows(((0, 13), (9, 22), (18, 31))),  # windows that do not share anchors
        Windows(((0, 9), (8, 17), (16, 25), (17, 26))),  # that share a single frame, or nearly all
    ],
    ids=str,
)
def test_points_are_handed_on_both_ways(windows):
    length = windows.num_frames
    anchors = windows.all_anchors()
    frames = [anchors[0], anchors[len(anchors) // 2], anchors[-1]]
    xy = [[4.0, 4.0], [8.0, 5.0], [12.0, 8.0]]
    seen = []
    follower = WindowedTracker(LinearTracker(), source(windows), query_at(windows, frames, xy), known_starts)
    followed = follower.follow(lambda: seen.append(1))
    assert len(seen) == follower.steps
    torch.testing.assert_close(followed.tracks.xy, truth(frames, xy, length))
    assert followed.followed.all()
    assert followed.tracks.valid.all()
    inside = (followed.tracks.xy >= 0).all(-1) & (followed.tracks.xy < torch.tensor([W, H])).all(-1)
    assert torch.equal(followed.tracks.visible, inside)
    assert followed.start[0, :, 0].tolist() == frames
    torch.testing.assert_close(followed.start[0, :, 1:], torch.tensor(xy))


def test_a_view_without_starts_stays_empty():
    windows = aligned_windows(17, 9)
    tracker = LinearTracker()
    followed = WindowedTracker(tracker, source(windows), query_at(windows, [4], [[6.0, 6.0]]), nowhere).follow()
    assert followed.tracks.valid.tolist() == [[True], [False]]
    assert not followed.tracks.visible[1].any()
    assert followed.start[1, 0, 0] == -1
    assert all(valid.shape == (1, 1) for valid in tracker.asked)  # the head never hears of the empty view


def test_what_one_view_hides_the_other_brings_back():
    """View 1 loses the point over a whole overlap; in the next window its start comes from view 0."""
    windows = aligned_windows(25, 9)  # (0, 9), (4, 13), (8, 17), ...
    tracker = LinearTracker(hidden=[(1, 0, 3, 9)])
    query = query_at(windows, [0], [[4.0, 4.0]])
    followed = WindowedTracker(tracker, source(windows), query, known_starts).follow()
    torch.testing.assert_close(followed.tracks.xy, truth([0], [[4.0, 4.0]], 25))
    assert followed.followed.all()
    assert followed.tracks.visible[1, :, 0].tolist() == [not 3 <= t <= 9 for t in range(25)]
    lonely = WindowedTracker(LinearTracker(hidden=[(1, 0, 3, 9)]), source(windows), query, once(known_starts)).follow()
    assert lonely.followed[1, :9, 0].all()
    assert not lonely.followed[1, 9:, 0].any()
    held = truth([0], [[4.0, 4.0]], 25)[1, 8, 0]
    torch.testing.assert_close(lonely.tracks.xy[1, 9:, 0], held.expand(16, 2))


def once(find):
    """Starts in the first window only."""
    return lambda window, *rest: find(window, *rest) if window == 0 else nowhere(window, *rest)


@pytest.mark.parametrize("shown", [True, False])
def test_lost_everywhere_is_looked_for_by_its_own_features(shown):
    """One view, hidden over a whole overlap: found again in the next window if its features are there."""
    windows = aligned_windows(25, 9)  # (0, 9), (4, 13), ...
    x, y = torch.meshgrid(torch.arange(W / PX), torch.arange(H / PX), indexing="xy")
    code = 7 * torch.stack([x.sin(), x.cos(), y.sin(), y.cos()], -1)[:, :, None]
    noise = 7 * torch.randn(code.shape, generator=torch.Generator().manual_seed(0))

    def read(window: int):
        tokens, _ = source(windows, views=1).read(window)
        known = tokens.q.clone()
        known[..., 2:] = code if window == 0 or shown else noise
        return Features(known, known, PX), None

    tracker = LinearTracker(hidden=[(0, 0, 3, 9)])
    query = query_at(windows, [0], [[6.0, 6.0]])
    followed = WindowedTracker(tracker, FeatureSource(windows, 1, SIZE, read), query, nowhere).follow()
    assert followed.tracks.visible[0, :3, 0].all()
    assert not followed.tracks.visible[0, 3:10, 0].any()
    assert followed.followed[0, 9:, 0].all() == shown
    if shown:  # its features stay at (6, 6), so it goes on from there
        again = torch.tensor([6.0, 6.0]) + (torch.arange(9, 13) - 4)[:, None] * VELOCITY
        torch.testing.assert_close(followed.tracks.xy[0, 9:13, 0], again, atol=0.5, rtol=0)
        assert followed.tracks.visible[0, 10:13, 0].all()
