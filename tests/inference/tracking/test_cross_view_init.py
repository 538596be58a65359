"""Starts in other views: by attention on maps whose answer is known, and by depth against exact tracks."""

import pytest
import torch

from mvtrack.correspondence.matching import sample_around
from mvtrack.data.synthetic.test_scenes import CaseSpec, render_case
from mvtrack.inference.tracking.cross_view_init import best_match, inside, starts_by_attention, starts_by_depth
from tracking_head import Features

V, F, H, W, HEADS, PX = 3, 2, 7, 11, 1, 4


def known_features(shift: torch.Tensor) -> Features:
    """Tokens that say where they come from: view v at frame j shows the scene moved by shift[v, j] pixels."""
    y, x = torch.meshgrid((torch.arange(H) + 0.5) * PX, (torch.arange(W) + 0.5) * PX, indexing="ij")
    maps = []
    for dx, dy in shift.flatten(0, 1).tolist():
        angle = [(x - dx) / s for s in (9.0, 17.0)] + [(y - dy) / s for s in (9.0, 17.0)]
        maps.append(6 * torch.stack([f(a) for a in angle for f in (torch.sin, torch.cos)], -1))
    tokens = torch.stack(maps).view(V, F, H, W, HEADS, 8)
    return Features(tokens, tokens, PX)


def test_attention_finds_every_view_in_the_right_frame():
    shift = torch.zeros(V, F, 2)
    shift[1] = torch.tensor([3.0, -2.0])
    shift[2] = torch.tensor([-5.0, 1.0])
    features = known_features(shift)
    features.q[1, 0], features.k[1, 0] = 0.0, 0.0  # view 1 shows nothing at frame 0
    txy = torch.tensor([[0.0, 19.0, 14.0], [1.0, 23.0, 12.0]])
    starts = starts_by_attention(features, txy)
    assert starts.found.all()
    torch.testing.assert_close(starts.txy[0], txy)
    assert (starts.txy[1, :, 0] == 1).all()
    for v in (1, 2):
        error = (starts.txy[v, :, 1:] - txy[:, 1:] - shift[v, 1]).norm(dim=-1)
        assert error.max() < 0.2 * PX


def test_attention_admits_what_it_does_not_find(generator):
    features = known_features(torch.zeros(V, F, 2))
    noise = 3 * torch.randn(F, H, W, HEADS, 8, generator=generator)
    features.q[2], features.k[2] = noise, noise
    starts = starts_by_attention(features, torch.tensor([[0.0, 19.0, 14.0], [0.0, 9.0, 9.0], [0.0, 35.0, 20.0]]))
    assert starts.found[:2].all()
    assert starts.found[2].sum() <= 1
    none = starts_by_attention(features, torch.tensor([[0.0, 19.3, 14.2]]), cycle_tokens=0.0)
    assert none.found.tolist() == [[True], [False], [False]]


def test_the_source_may_be_any_view():
    shift = torch.zeros(V, F, 2)
    shift[0] = torch.tensor([4.0, 0.0])
    starts = starts_by_attention(known_features(shift), torch.tensor([[1.0, 15.0, 14.0]]), source=2)
    assert starts.found.all()
    assert starts.txy[2, 0].tolist() == [1.0, 15.0, 14.0]
    assert (starts.txy[0, 0, 1:] - torch.tensor([19.0, 14.0])).norm() < 0.2 * PX


def test_matches_outside_the_picture_do_not_count():
    features = known_features(torch.zeros(V, F, 2))
    xy = torch.tensor([[0.3, 0.3]])
    query = sample_around(features.q[0, 0], xy, PX)
    txy, found = best_match(features, 1, query, features.k[0, 0], xy, cycle_tokens=9.0)
    assert not found.any() or inside(txy[found][:, 1:], features.size).all()


@pytest.fixture(scope="module")
def clip():
    return render_case(CaseSpec(5, "arc_left", 20.0, 0.0, (48, 64), 5), num_points=61).clip


def asked_at(clip, frame: int) -> tuple[torch.Tensor, torch.Tensor]:
    points = clip.tracks.visible[0, frame].nonzero()[:, 0]
    xy = clip.tracks.xy[0, frame, points]
    return points, torch.cat([torch.full((len(points), 1), float(frame // 4)), xy], -1)


@pytest.mark.parametrize("given", ["source", "all"])
def test_depth_projects_exactly_and_sees_occlusion(clip, given):
    anchors = torch.tensor([0, 4])
    points, txy = asked_at(clip, 4)
    other = clip.depth[:, anchors] if given == "all" else None
    starts = starts_by_depth(txy, clip.depth[0, anchors], clip.camera[:, anchors], other_depth=other)
    truth, seen = clip.tracks.xy[1, 4, points], clip.tracks.visible[1, 4, points]
    found = starts.found[1]
    assert (starts.txy[1, found, 0] == 1).all()
    # depth is that of the pixel's centre, so a point within the pixel is off by less than one
    assert (starts.txy[1, found & seen, 1:] - truth[found & seen]).norm(dim=-1).median() < 0.1
    assert (found == seen).float().mean() > 0.9
    assert (found & ~seen).float().sum() <= 0.3 * (~seen).float().sum() + 1


def test_without_depth_nothing_is_found(clip):
    points, txy = asked_at(clip, 0)
    starts = starts_by_depth(txy, torch.full((2, 48, 64), torch.nan), clip.camera[:, torch.tensor([0, 4])])
    assert starts.found[0].all()
    assert not starts.found[1].any()
