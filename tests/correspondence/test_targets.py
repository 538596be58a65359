"""Targets from tracks and from depth."""

import logging
from dataclasses import replace

import pytest
import torch

from mvtrack.correspondence.targets import (
    CorrespondenceTargets,
    CountedWarning,
    targets_from_depth,
    targets_from_tracks,
)
from mvtrack.data.synthetic.test_scenes import CaseSpec, render_case
from mvtrack.geometry.camera import Camera, intrinsics_from_fov
from tracking_head import Tracks

V, T, N, PX, SIZE = 2, 5, 7, 4, (12, 20)
GRID, CELLS, FRAMES = (3, 5), 15, 2


def random_tracks(generator, batch: int = 3) -> Tracks:
    xy = torch.rand(batch, V, T, N, 2, generator=generator) * torch.tensor([20.0, 12.0])
    visible = torch.rand(batch, V, T, N, generator=generator) < 0.6
    return Tracks(xy, visible, torch.ones(batch, V, N, dtype=torch.bool))


def test_track_targets_are_cells_at_anchors(generator):
    tracks = random_tracks(generator)
    targets = targets_from_tracks(tracks, SIZE, PX, num_queries=None)
    assert targets.grid == GRID
    for b in range(3):
        rows = [(v, f, n) for v in range(V) for f in range(FRAMES) for n in range(N) if tracks.visible[b, v, 4 * f, n]]
        for i, (v, f, n) in enumerate(rows):
            x, y = tracks.xy[b, v, 4 * f, n].tolist()
            assert targets.query[b, i] == (v * FRAMES + f) * CELLS + int(y // PX) * 5 + int(x // PX)
            torch.testing.assert_close(targets.query_xy[b, i], tracks.xy[b, v, 4 * f, n])
            for v2 in range(V):
                for f2 in range(FRAMES):
                    seen = tracks.visible[b, v2, 4 * f2, n]
                    assert targets.weight[b, i, v2, f2] == seen
                    if seen:
                        x, y = tracks.xy[b, v2, 4 * f2, n].tolist()
                        assert targets.label[b, i, v2, f2] == int(y // PX) * 5 + int(x // PX)
                        torch.testing.assert_close(targets.label_xy[b, i, v2, f2], tracks.xy[b, v2, 4 * f2, n])
        assert not targets.weight[b, len(rows) :].any()


def test_queries_depend_on_seed(generator):
    tracks = random_tracks(generator)
    few = targets_from_tracks(tracks, SIZE, PX, num_queries=5, seed=3)
    assert few.query.shape == (3, 5)
    assert (few.weight.flatten(2).sum(2) > 0).all()  # each sees at least itself
    again = targets_from_tracks(tracks, SIZE, PX, num_queries=5, seed=3)
    other = targets_from_tracks(tracks, SIZE, PX, num_queries=5, seed=4)
    assert torch.equal(few.query, again.query)
    assert not torch.equal(few.query, other.query)
    every = targets_from_tracks(tracks, SIZE, PX, num_queries=None)
    many = targets_from_tracks(tracks, SIZE, PX, num_queries=1000)
    assert torch.equal(many.query, every.query)


def test_invalid_points_give_no_targets(generator, unchecked):
    tracks = random_tracks(generator)
    xy, seen = tracks.xy.clone(), tracks.visible
    xy[0, 0, 0, :3] = torch.tensor([[torch.nan, 1], [torch.inf, 1], [1, -torch.inf]])
    xy[0, 1, 4, :2] = torch.tensor([[20.0, 3.0], [-0.1, 3.0]])
    bad = targets_from_tracks(replace(tracks, xy=xy), SIZE, PX, num_queries=None)
    hidden = seen.clone()
    hidden[0, 0, 0, :3] = False
    hidden[0, 1, 4, :2] = False
    clean = targets_from_tracks(replace(tracks, visible=hidden), SIZE, PX, num_queries=None)
    for name in ("query", "label", "weight", "label_xy"):
        assert torch.equal(getattr(bad, name), getattr(clean, name)), name
    gone = targets_from_tracks(replace(tracks, valid=torch.zeros_like(tracks.valid)), SIZE, PX)
    assert gone.weight.sum() == 0
    with pytest.raises(ValueError, match="12x20 are not divisible by the token size 8"):
        targets_from_tracks(tracks, SIZE, 8)
    with pytest.raises(ValueError, match="must be batched"):
        targets_from_tracks(Tracks(tracks.xy[0], tracks.visible[0], tracks.valid[0]), SIZE, PX)


def test_targets_are_equivariant_to_view_swap(generator):
    tracks = random_tracks(generator)
    swapped = Tracks(tracks.xy.flip(1), tracks.visible.flip(1), tracks.valid.flip(1))
    a = targets_from_tracks(tracks, SIZE, PX, num_queries=None)
    b = targets_from_tracks(swapped, SIZE, PX, num_queries=None)
    half = FRAMES * CELLS

    def rows(t, flipped):
        query = (t.query + half) % (2 * half) if flipped else t.query
        label, weight = (x.flip(2) if flipped else x for x in (t.label, t.weight))
        return [
            {(int(query[s, i]), *label[s, i].flatten().tolist(), *weight[s, i].flatten().tolist())
             for i in range(query.shape[1]) if weight[s, i].any()}
            for s in range(3)
        ]  # fmt: skip

    assert rows(a, False) == rows(b, True)


@pytest.fixture(scope="module")
def scene():
    """A rendered moving scene with exact tracks and depth."""
    return render_case(CaseSpec(5, "arc_left", 18.0, 0.0, size=(44, 52), num_frames=T), num_points=60).clip


def test_depth_targets_equal_track_targets_on_rendered_scenes(scene):
    token_px = 4
    by_depth = targets_from_depth(scene.depth[None], scene.camera[None], token_px)
    by_track = targets_from_tracks(Tracks.stack([scene.tracks]), (44, 52), token_px, num_queries=None)
    cells, columns, first = 11 * 13, 13, FRAMES * 11 * 13
    asked = {int(q): i for i, q in enumerate(by_depth.query[0])}
    found = []
    for i, query in enumerate(by_track.query[0].tolist()):
        frame = query // cells % FRAMES
        if query < first or by_track.weight[0, i, 0, frame] == 0 or by_depth.weight[0, asked[query], 0, frame] == 0:
            continue
        a, b = by_track.label[0, i, 0, frame], by_depth.label[0, asked[query], 0, frame]
        found.append(max(abs(int(a) // columns - int(b) // columns), abs(int(a) % columns - int(b) % columns)))
    assert len(found) > 20
    assert (
        sum(d <= 1 for d in found) / len(found) > 0.9
    )  # a track point is anywhere in its token, a depth target central


def test_invalid_depth_gives_no_targets(scene, unchecked):
    depth = scene.depth[None].clone()
    truth = targets_from_depth(depth, scene.camera[None], 4)
    depth[:, 1, :, :22] = torch.nan
    depth[:, 1, :, 22:33] = -1.0
    depth[:, 1, :, 33:] = torch.inf
    assert truth.weight.sum() > 50
    assert targets_from_depth(depth, scene.camera[None], 4).weight.sum() == 0
    depth = scene.depth[None].clone()
    depth[:, 0] = torch.nan
    assert targets_from_depth(depth, scene.camera[None], 4).weight.sum() == 0


def test_disjoint_views_warn(caplog, unchecked):
    pose = torch.eye(4).expand(1, 2, 1, 4, 4).clone()
    pose[0, 1, 0] = torch.diag(torch.tensor([-1.0, 1, -1, 1]))  # looks the other way
    camera = Camera(pose, intrinsics_from_fov(60, (8, 8)).expand(1, 2, 1, 3, 3), (8, 8))
    with caplog.at_level(logging.WARNING):
        targets = targets_from_depth(torch.full((1, 2, 1, 8, 8), 3.0), camera, 4)
        for _ in range(4):  # 1, 2, 4, 8, ... are logged, wherever the count stands now
            targets_from_depth(torch.full((1, 2, 1, 8, 8), 3.0), camera, 4)
    assert targets.weight.sum() == 0
    assert targets.label.shape == (1, 4, 2, 1)


def test_counted_warnings_thin_out(caplog):
    warning = CountedWarning(logging.getLogger("test"), "%d of %d bad, %d so far")
    with caplog.at_level(logging.WARNING):
        for cases in (0, 1, 2, 1, 3, 0):
            warning.count(cases, 5)
    assert [r.getMessage() for r in caplog.records] == [
        "1 of 5 bad, 1 so far",
        "2 of 5 bad, 3 so far",
        "3 of 5 bad, 7 so far",
    ]


def test_batching_pads_queries_and_other_grids_raise(generator, unchecked):
    a = targets_from_tracks(random_tracks(generator, 1), SIZE, PX, num_queries=3)
    b = targets_from_tracks(random_tracks(generator, 1), SIZE, PX, num_queries=5)
    both = CorrespondenceTargets.concatenate([a, b])
    assert both.query.shape == (2, 5)
    assert torch.equal(both.label[:1, :3], a.label)
    assert not both.weight[0, 3:].any()
    assert torch.equal(both.label_xy[1:], b.label_xy)
    with pytest.raises(ValueError, match="different token grids"):
        CorrespondenceTargets.concatenate([a, targets_from_tracks(random_tracks(generator, 1), SIZE, 2)])
    with pytest.raises(ValueError, match="query, label, weight must be"):
        replace(a, weight=a.weight[:, :, :1])


@pytest.mark.parametrize("stride", [1, 2, 4])
def test_tracks_are_read_at_every_strided_frame(generator, stride):
    """As if only these frames were there."""
    tracks = random_tracks(generator, 1)
    strided = targets_from_tracks(tracks, SIZE, PX, num_queries=None, frame_stride=stride)
    alone = targets_from_tracks(tracks.frames(slice(None, None, stride)), SIZE, PX, num_queries=None, frame_stride=1)
    assert strided.label.shape[3] == 4 // stride + 1
    for name in ("query", "label", "weight"):
        assert torch.equal(getattr(strided, name), getattr(alone, name)), name


def test_unusable_tracks_raise_with_their_values(generator, unchecked):
    tracks = random_tracks(generator, 1)
    visible = torch.ones_like(tracks.visible)
    for xy in (torch.rand_like(tracks.xy), 2 * torch.rand_like(tracks.xy) - 1):
        with pytest.raises(
            ValueError, match=r"must be in pixels of images of .* all visible points lie in \[0\.\d+, 0"
        ):
            targets_from_tracks(Tracks(xy, visible, tracks.valid), SIZE, PX)
    with pytest.raises(ValueError, match=r"visible must be a mask of torch.bool, got torch.float32: use visible > 0.5"):
        replace(tracks, visible=visible.float())
    with pytest.raises(ValueError, match="with frame_stride 7 there must be 7n \\+ 1 frames"):
        targets_from_tracks(tracks.frames(slice(0, 5)), SIZE, PX, frame_stride=7)
    with pytest.raises(ValueError, match="query and label must be integers, got torch.float32"):
        CorrespondenceTargets(torch.zeros(1, 2), torch.zeros(1, 2, 1, 1).long(), torch.ones(1, 2, 1, 1), (3, 5))
