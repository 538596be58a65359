import torch

from mvtrack.training.losses.tracking import draw_track_targets
from tracking_head import Tracks

B, V, T, N = 2, 3, 9, 11


def tracks() -> Tracks:
    g = torch.Generator().manual_seed(3)
    xy = torch.rand(B, V, T, N, 2, generator=g) * torch.tensor([40.0, 30.0])
    visible = torch.rand(B, V, T, N, generator=g) < 0.4
    valid = torch.ones(B, V, N, dtype=torch.bool)
    visible[:, :, :, :2] = False  # never seen
    valid[0, 1, 4] = False
    return Tracks(xy, visible, valid)


def test_track_queries_are_visible():
    truth = tracks()
    targets = draw_track_targets(truth, 7, [5, 6])
    assert targets.txy.shape == (B, V, 7, 3)
    assert targets.truth.xy.shape == (B, V, 3, 7, 2)  # anchors 0, 4, 8
    for b, v, p in targets.valid.nonzero().tolist():
        frame, x, y = targets.txy[b, v, p].tolist()
        at = targets.truth.xy[b, v, int(frame), p]
        assert at.tolist() == [x, y]
        assert targets.truth.visible[b, v, int(frame), p]
        source = (truth.xy[b, v, 4 * int(frame)] == at).all(-1).nonzero().item()
        assert truth.valid[b, v, source]
    assert targets.valid.any(1).float().mean() > 0.8


def test_track_queries_cover_frames_and_views():
    asked = [draw_track_targets(tracks(), 5, [s, s + 1]) for s in range(40)]
    frames = torch.cat([a.txy[..., 0][a.valid] for a in asked])
    assert sorted(frames.unique().tolist()) == [0, 1, 2]
    assert all(torch.stack([a.valid[:, v].any() for a in asked]).any() for v in range(V))


def test_track_targets_depends_on_seeds_alone():
    first, same, other = (draw_track_targets(tracks(), 5, s) for s in ([1, 2], [1, 2], [1, 3]))
    assert torch.equal(first.txy, same.txy)
    assert torch.equal(first.txy[0], other.txy[0])
    assert not torch.equal(first.txy[1], other.txy[1])


def test_no_point_is_followed_twice():
    targets = draw_track_targets(tracks(), 2 * N, [1, 2])
    assert targets.txy.shape[2] == N
    assert not draw_track_targets(Tracks(*_hidden()), 4, [0, 0]).valid.any()


def _hidden():
    t = tracks()
    return t.xy, torch.zeros_like(t.visible), t.valid
