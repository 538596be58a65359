"""The door: what is refused, and what comes out at which rate."""

import pytest
import torch

from tracking_head import (
    CorrelationConfig,
    Features,
    HeadConfig,
    Queries,
    Tracker,
    TrackingHead,
    Tracks,
    anchor_queries,
    queries_from_truth,
    to_video_rate,
)

B, V, T, N, h, w = 2, 3, 3, 5, 2, 7
TOKEN_PX = 4
SIZE = (h * TOKEN_PX, w * TOKEN_PX)


def queries(**changes) -> Queries:
    g = torch.Generator().manual_seed(5)
    xy = torch.rand(V, N, 2, generator=g) * torch.tensor([SIZE[1], SIZE[0]])
    t = torch.randint(0, T, (V, N, 1), generator=g).float()
    valid = torch.ones(V, N, dtype=torch.bool)
    valid[1, 2] = False
    return Queries(**{"txy": torch.cat([t, xy], -1), "valid": valid, "num_frames": T, "size": SIZE} | changes)


def features(frames=T, grid=(h, w)) -> Features:
    g = torch.Generator().manual_seed(6)
    q, k = (torch.randn(V, frames, *grid, 2, 3, generator=g) for _ in range(2))
    return Features(q, k, TOKEN_PX)


@pytest.fixture(scope="module")
def tracker() -> Tracker:
    torch.manual_seed(0)
    config = HeadConfig(CorrelationConfig(levels=1, radius=1), 5, 4, dim=8, heads=2, layers=1, virtual_tracks=2)
    return Tracker(TrackingHead(config), threshold=0.2)


def test_tracker_takes_clip_and_batch(tracker):
    tracks = tracker(features(), queries())
    assert tracks.xy.shape == (V, T, N, 2)
    assert tracks.visible[~queries().valid[:, None].expand(-1, T, -1)].sum() == 0
    assert tracks.visible.any()  # 0.5 x 0.5 at a fresh head
    assert (tracks.xy[1, :, 2] == 0).all()
    f, a = features(), queries()
    batch = tracker(Features(torch.stack([f.q] * B), torch.stack([f.k] * B), TOKEN_PX),
                    queries(txy=torch.stack([a.txy] * B), valid=torch.stack([a.valid] * B)))  # fmt: skip
    torch.testing.assert_close(batch.xy[1], tracks.xy, atol=1e-4, rtol=0)
    assert not tracks.xy.requires_grad


def test_tracks_at_video_rate_interpolate_anchors(tracker):
    latent, video = tracker.soft(features(), queries()), tracker.soft(features(), queries(), frame_stride=4)
    assert video.xy.shape == (V, 9, N, 2)
    torch.testing.assert_close(video.xy[:, ::4], latent.xy)
    torch.testing.assert_close(video.visible[:, ::4], latent.visible)
    values = torch.tensor([0.0, 8.0, 4.0])[:, None, None]
    assert to_video_rate(values).flatten().tolist() == [0, 2, 4, 6, 8, 7, 6, 5, 4]
    assert to_video_rate(values[:1]).flatten().tolist() == [0]


def test_spline_meets_anchors_and_follows_smooth_motion():
    def path(t):
        return torch.stack([torch.sin(0.7 * t), 0.3 * t + torch.cos(0.5 * t)], -1)[:, None]

    video = torch.arange(0, 21.0) / 5
    anchors = path(video[::5])
    spline, linear = (to_video_rate(anchors.double(), 5, kind) for kind in ("spline", "linear"))
    torch.testing.assert_close(spline[::5], anchors.double(), rtol=0, atol=1e-12)
    truth = path(video)
    assert (spline - truth).abs().max() < 0.3 * (linear - truth).abs().max()
    step = torch.arange(5.0)[:, None, None]  # a straight path stays straight
    torch.testing.assert_close(to_video_rate(step, 4, "spline").flatten(), torch.arange(17.0) / 4)
    torch.testing.assert_close(to_video_rate(step[:2], 4, "spline"), to_video_rate(step[:2], 4))


def test_spline_is_smooth_with_straight_ends():
    values = torch.tensor([0.0, 3, -1, 2, 5], dtype=torch.float64)[:, None, None]
    fine = to_video_rate(values, 1000, "spline").flatten()
    second = fine.diff().diff() * 1000**2
    assert second.diff().abs().max() < 0.1
    assert second[[0, -1]].abs().max() < 0.1


def test_queries_move_to_nearest_anchor():
    frame = torch.arange(9.0)
    txy = torch.stack([frame, frame + 20, frame + 30], -1)
    moved, shift = anchor_queries(txy, latent_frames=3)
    assert moved[:, 0].tolist() == [0, 0, 0, 1, 1, 1, 1, 2, 2]  # the earlier of two
    assert shift.tolist() == [0, -1, -2, 1, 0, -1, -2, 1, 0]
    assert torch.equal(moved[:, 1:], txy[:, 1:])
    with pytest.raises(ValueError, match=r"query frames must lie in \[0, 8\], got 0 to 9"):
        anchor_queries(torch.tensor([[0.0, 1, 1], [9, 1, 1]]), latent_frames=3)


def test_queries_from_truth_are_visible(generator):
    xy = torch.rand(B, V, 7, N, 2, generator=generator)
    visible = torch.rand(B, V, 7, N, generator=generator) < 0.4
    visible[0, 1, :, 2] = False
    truth = Tracks(xy, visible, torch.rand(B, V, N, generator=generator) < 0.8)
    first, valid = queries_from_truth(truth)
    random, same = queries_from_truth(truth, generator)
    assert torch.equal(valid, same)
    assert torch.equal(valid, visible.any(2) & truth.valid)
    different = 0
    for b, v, n in valid.nonzero().tolist():
        for txy in (first[b, v, n], random[b, v, n]):
            assert visible[b, v, int(txy[0]), n]
            assert torch.equal(txy[1:], xy[b, v, int(txy[0]), n])
        assert not visible[b, v, : int(first[b, v, n, 0]), n].any()
        different += int(first[b, v, n, 0] != random[b, v, n, 0])
    assert different > 3


def _txy(view: int, point: int, value: list[float]) -> torch.Tensor:
    txy = queries().txy
    txy[view, point] = torch.tensor(value)
    return txy


def _valid(**off) -> torch.Tensor:
    valid = torch.ones(V, N, dtype=torch.bool)
    valid[off["view"]] = False
    return valid


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"txy": torch.zeros(V, N, 2)}, r"queries must be \(V, N, 3\) or .* of frame, x, y, got \(3, 5, 2\)"),
        ({"txy": torch.zeros(N, 3)}, r"queries must be .*, got \(5, 3\)"),
        ({"valid": torch.ones(V, N + 1, dtype=torch.bool)}, r"valid must be \(3, 5\) like the queries, got \(3, 6\)"),
        ({"txy": _txy(2, 3, [0, float("nan"), 1])}, r"finite frame, x, y, got .*nan.* for point 3, view 2"),
        ({"txy": _txy(0, 1, [T, 1, 1])}, r"a frame in \[0, 2\], got .* = \(3.0, 1.0, 1.0\) for point 1, view 0"),
        ({"txy": _txy(0, 1, [-1, 1, 1])}, r"a frame in \[0, 2\]"),
        ({"txy": _txy(0, 1, [0.5, 1, 1])}, "a whole frame number, got"),
        ({"txy": _txy(1, 0, [0, 28, 1])}, r"x in \[0, 28\) and y in \[0, 8\), got \(t, x, y\) = \(0.0, 28.0, 1.0\)"),
        ({"txy": _txy(1, 0, [0, 3, -0.5])}, r"x in \[0, 28\) and y in \[0, 8\)"),
        ({"valid": _valid(view=slice(None))}, "at least one query must be valid, got none of 15"),
        ({"valid": _valid(view=1)}, "every view must have a valid query, got none in view 1"),
    ],
)
def test_invalid_queries_raise(change, message):
    with pytest.raises(ValueError, match=message):
        queries(**change)


def test_invalid_queries_may_hold_anything():
    assert not queries(txy=_txy(1, 2, [99, float("nan"), -7])).valid[1, 2]
    assert Queries.everywhere(queries().txy, T, SIZE).valid.all()


@pytest.mark.usefixtures("unchecked")
def test_mismatched_features_raise(tracker):
    with pytest.raises(ValueError, match=r"must be in images of \(12, 28\) \(3x7 tokens of 4 px\), got \(8, 28\)"):
        tracker(features(grid=(3, w)), queries())
    with pytest.raises(ValueError, match=r"for \(..., V, T\) = \(3, 4\) as the features, got \(3, 3\)"):
        tracker(features(frames=4), queries())
    f = features()
    with pytest.raises(ValueError, match=r"q and k must both be .* got \(3, 3, 2, 7, 2, 3\) and \(3, 3, 2, 6, 2, 3\)"):
        Features(f.q, f.k[:, :, :, :-1], TOKEN_PX)
    with pytest.raises(ValueError, match=r"q and k must both be .* got \(3, 2, 7, 2, 3\)"):
        Features(f.q[0], f.k[0], TOKEN_PX)
    with pytest.raises(ValueError, match="token_px must be at least 1, got 0"):
        Features(f.q, f.k, 0)


@pytest.mark.parametrize(
    ("place", "message"),
    [
        ((-1.0, 3.0, 3.0), "a frame in"),
        ((float(T), 3.0, 3.0), "a frame in"),
        ((0.5, 3.0, 3.0), "whole frame"),
        ((0.0, float("nan"), 3.0), "finite frame"),
        ((0.0, 3.0, float(SIZE[0])), "x in"),
    ],
)
def test_head_refuses_queries_outside_clip(tracker, place, message):
    f, a = features(), queries()
    txy = a.txy.clone()
    txy[1, 3] = torch.tensor(place)
    with pytest.raises(ValueError, match=message):
        tracker.head(f.q[None], f.k[None], txy[None], a.valid[None], TOKEN_PX)


def test_nonfinite_features_and_zero_stride_raise(tracker):
    broken = features()
    broken.k[0, 1, 0, 0] = torch.nan
    with pytest.raises(ValueError, match="must be finite, got 6 values of k"):
        tracker(broken, queries())
    with pytest.raises(ValueError, match="frame_stride must be at least 1, got 0"):
        tracker(features(), queries(), frame_stride=0)
