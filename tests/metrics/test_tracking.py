import math
from dataclasses import replace

import pytest
import torch

from mvtrack.geometry.camera import Camera, project
from mvtrack.metrics.tracking import cross_view_pck, epipolar_error, hidden_here_scores, tap_scores
from tracking_head import Tracks

V, T, N = 3, 5, 7
SIZE = (64, 128)  # one pixel is 4 rows and 2 columns of 256x256


@pytest.mark.parametrize("case", ["random", "edge"])
@pytest.mark.parametrize("frames", ["first", "strided"])
@pytest.mark.parametrize("per", ["view", "track"])
def test_golden_tap_metrics(case, frames, per, golden_numbers):
    """Every score of tapnet's, each of its videos being a view of ours; NaN in the same places."""
    golden = golden_numbers(f"tap_metrics_{case}")
    query_frame = torch.from_numpy(golden["query_points_tyx"])[..., 0]
    valid = torch.ones(query_frame.shape, dtype=torch.bool)
    predicted, truth = (
        Tracks(
            torch.from_numpy(golden[f"{who}_tracks_xy"]).movedim(2, 1),
            ~torch.from_numpy(golden[f"{who}_occluded"]).movedim(2, 1),
            valid,
        )
        for who in ("pred", "gt")
    )
    scores = tap_scores(predicted, truth, query_frame, (256, 256), frames, per)
    prefix = f"{frames}.{'video' if per == 'view' else 'track'}"
    ours = {
        "occlusion_accuracy": scores.occlusion_accuracy,
        "average_pts_within_thresh": scores.delta_avg,
        "average_jaccard": scores.average_jaccard,
    }
    for i, threshold in enumerate((1, 2, 4, 8, 16)):
        ours |= {f"pts_within_{threshold}": scores.within[..., i], f"jaccard_{threshold}": scores.jaccard[..., i]}
    for name, value in ours.items():
        expected = torch.from_numpy(golden[f"{prefix}.{name}"])
        torch.testing.assert_close(value, expected, atol=1e-7, rtol=0, equal_nan=True, msg=lambda m, n=name: n + m)
    assert len(ours) == sum(name.startswith(prefix + ".") for name in golden)


def truth_of(generator) -> Tracks:
    xy = torch.rand(V, T, N, 2, generator=generator) * torch.tensor([SIZE[1], SIZE[0]])
    return Tracks(xy, torch.rand(V, T, N, generator=generator) < 0.6, torch.ones(V, N, dtype=torch.bool))


def shifted(truth: Tracks, x: float, y: float) -> Tracks:
    return replace(truth, xy=truth.xy + torch.tensor([x, y]))


def test_perfect_and_shifted_tracks(generator):
    truth = truth_of(generator)
    start = torch.zeros(V, N)
    assert tap_scores(truth, truth, start, SIZE).macro() == dict.fromkeys(
        ("delta_avg", "average_jaccard", "occlusion_accuracy"), 1.0
    )
    near = tap_scores(shifted(truth, 0, 1.5), truth, start, SIZE)  # 6 of 256
    torch.testing.assert_close(near.within, torch.tensor([0.0, 0, 0, 1, 1]).expand(V, -1))
    near = tap_scores(shifted(truth, 1.5, 0), truth, start, SIZE)  # 3 of 256
    torch.testing.assert_close(near.within, torch.tensor([0.0, 0, 1, 1, 1]).expand(V, -1))


def test_only_valid_points_and_asked_frames_count(generator):
    truth = truth_of(generator)
    wrong = shifted(truth, 50, 0)
    query_frame = torch.full((V, N), 2.0)
    xy = truth.xy.clone()
    xy[:, :3] = wrong.xy[:, :3]  # frames up to the query's
    early = replace(truth, xy=xy)
    assert tap_scores(early, truth, query_frame, SIZE, "first").macro()["delta_avg"] == 1
    assert tap_scores(early, truth, query_frame, SIZE, "strided").macro()["delta_avg"] < 1
    xy = truth.xy.clone()
    xy[:, 2] = wrong.xy[:, 2]
    assert tap_scores(replace(truth, xy=xy), truth, query_frame, SIZE, "strided").macro()["delta_avg"] == 1
    assert tap_scores(replace(truth, xy=xy), truth, query_frame, SIZE, "all").macro()["delta_avg"] < 1
    xy = truth.xy.clone()
    xy[1, :, 4] = wrong.xy[1, :, 4]
    valid = truth.valid.clone()
    valid[1, 4] = False
    assert tap_scores(replace(truth, xy=xy), replace(truth, valid=valid), query_frame, SIZE).macro()["delta_avg"] == 1


def test_what_was_not_found_is_missed(generator):
    truth = truth_of(generator)
    found = torch.ones(V, N, dtype=torch.bool)
    found[1:, 3] = False
    scores = tap_scores(truth, truth, torch.zeros(V, N), SIZE, "all", found=found)
    visible = truth.visible.sum(1).double()
    expected = 1 - visible[:, 3] / visible.sum(1) * torch.tensor([0.0, 1, 1])
    torch.testing.assert_close(scores.delta_avg.double(), expected)
    torch.testing.assert_close(scores.average_jaccard.double(), expected)
    each = tap_scores(truth, truth, torch.zeros(V, N), SIZE, "all", "track", found)
    assert (each.delta_avg[1:, 3] == 0).all() or not truth.visible[1:, :, 3].any()


def test_hidden_here_and_seen_there():
    xy = torch.full((2, T, N, 2), 20.0)
    visible = torch.zeros(2, T, N, dtype=torch.bool)
    visible[0, :, :4] = True  # points 0-3 are seen by view 0 alone, 4 by nobody
    visible[1, 3:, 5] = True  # point 5 by view 1 at the end
    xy[1, :, 3] = -5.0  # outside view 1
    truth = Tracks(xy, visible, torch.ones(2, N, dtype=torch.bool))
    predicted = shifted(truth, 3.0, 0.0)  # 6 of 256
    scores = hidden_here_scores(predicted, truth, SIZE)
    assert scores.count.tolist() == [2, 3 * T]
    assert scores.mean_px.tolist() == scores.median_px.tolist() == [6, 6]
    torch.testing.assert_close(scores.delta_avg, torch.tensor([0.4, 0.4]))
    assert hidden_here_scores(predicted, truth, SIZE, inside_only=False).count[1] == 4 * T
    assert hidden_here_scores(predicted, truth, SIZE, torch.zeros(2, N)).count.tolist() == [2, 3 * (T - 1)]
    nothing = hidden_here_scores(predicted, replace(truth, visible=~torch.zeros_like(visible)), SIZE)
    assert nothing.mean_px.isnan().all()
    assert nothing.count.sum() == 0


def test_cross_view_pck(generator):
    truth = truth_of(generator)
    assert cross_view_pck(truth.xy, truth)[1:].tolist() == [1, 1]
    assert math.isnan(cross_view_pck(truth.xy, truth)[0])
    moved = truth.xy.clone()
    moved[1] += torch.tensor([0.0, 16.5])
    moved[2] += torch.tensor([15.5, 0.0])
    assert cross_view_pck(moved, truth)[1:].tolist() == [0, 1]
    assert cross_view_pck(moved, truth, threshold_px=17)[1] == 1
    assert cross_view_pck(truth.xy, truth, reliable=torch.zeros_like(truth.visible))[1] == 0


def rig(generator) -> Camera:
    c2w = torch.eye(4).repeat(V, T, 1, 1)
    c2w[..., :3, 3] = torch.randn(V, T, 3, generator=generator) * 0.3
    c2w[1, ..., :2, :2] = torch.tensor([[0.8, -0.6], [0.6, 0.8]])
    K = torch.tensor([[90.0, 0, 64], [0, 95, 32], [0, 0, 1]]).repeat(V, T, 1, 1)
    return Camera(c2w, K, SIZE)


def test_true_points_lie_on_epipolar_lines(generator):
    camera = rig(generator)
    world = torch.randn(N, 3, generator=generator) + torch.tensor([0.0, 0, 6])
    xy, _ = project(world.expand(V, T, -1, -1), camera)
    seen = torch.ones(V, T, N, dtype=torch.bool)
    tracks = Tracks(xy, seen, torch.ones(V, N, dtype=torch.bool))
    error, count = epipolar_error(tracks, camera)
    assert count.tolist() == [0, T * N, T * N]
    assert error[1:].max() < 1e-3
    assert math.isnan(error[0])
    assert epipolar_error(shifted(tracks, 5, 0), camera, source=2)[0][0] > 0.01
    seen = seen.clone()
    seen[0, :, 1:] = False
    assert epipolar_error(replace(tracks, visible=seen), camera)[1].tolist() == [0, T, T]
    one_place = replace(camera, c2w=camera.c2w[:1].expand(V, -1, -1, -1))
    assert epipolar_error(tracks, one_place)[1].sum() == 0


def test_a_point_off_its_line_by_hand():
    """A camera one unit to the right sees every point of a row in that row."""
    c2w = torch.eye(4).repeat(2, 1, 1, 1)
    c2w[1, ..., 0, 3] = 1
    K = torch.tensor([[50.0, 0, 10], [0, 50, 10], [0, 0, 1]]).repeat(2, 1, 1, 1)
    xy = torch.tensor([[15.0, 12.0], [3.0, 14.5]]).reshape(2, 1, 1, 2)
    tracks = Tracks(xy, torch.ones(2, 1, 1, dtype=torch.bool), torch.ones(2, 1, dtype=torch.bool))
    assert epipolar_error(tracks, Camera(c2w, K, SIZE))[0][1] == pytest.approx(2.5, abs=1e-5)


@pytest.mark.usefixtures("unchecked")
def test_bad_input_is_refused(generator):
    truth = truth_of(generator)
    with pytest.raises(ValueError, match=r"one shape \(V, T, N, 2\), got \(3, 2, 7, 2\) and \(3, 5, 7, 2\)"):
        tap_scores(truth.frames(slice(0, 2)), truth, torch.zeros(V, N), SIZE)
    with pytest.raises(ValueError, match=r"query_frame must be \(3, 7\) \(V, N\), got \(7,\)"):
        tap_scores(truth, truth, torch.zeros(N), SIZE)
    with pytest.raises(ValueError, match=r"camera must be \(3, 5\) \(V, T\), got \(2, 5\)"):
        epipolar_error(truth, rig(generator)[:2])
