from dataclasses import replace

import pytest
import torch

from mvtrack.backbone.model import build_model
from mvtrack.config import ModelConfig
from mvtrack.config_tree import from_tree
from mvtrack.data.test_scenes import CaseSpec, render_case
from mvtrack.evaluation.manifest import load_tracking_cases, still_delta
from mvtrack.evaluation.tracking import draw_queries, score_model, score_tracks, still, track_clip, view_features
from tracking_head import Tracks

HEAD = {
    "dim": 16, "heads": 2, "layers": 1, "virtual_tracks": 3, "iterations": 2, "correlation_dim": 6,
    "correlation_hidden": 10, "correlation": {"levels": 2, "radius": 1, "base_stride_px": 2},
}  # fmt: skip


@pytest.fixture(scope="module")
def clip():
    return render_case(CaseSpec(5, "arc_left", 20.0, 0.0, (24, 32), 5), num_points=13).clip


@pytest.fixture(scope="module")
def model(small_run, clip):
    config = from_tree(ModelConfig, small_run["model"] | {"tracking": HEAD}, "model")
    model = build_model(config, seed=4)
    model.codec.fit([clip.video], 0.5)
    return model


def test_features_stand_at_the_anchors(model, clip):
    features = view_features(model, clip.video, clip.camera, clip.depth)
    assert features.q.shape == features.k.shape == (2, 2, 6, 8, 2, 12)
    again = view_features(model, clip.video, clip.camera, clip.depth)
    assert torch.equal(features.q, again.q)


def test_queries_lie_on_visible_points(clip):
    queries = draw_queries(clip.tracks, (24, 32), seed=3)
    for v, n in queries.valid.nonzero().tolist():
        frame, x, y = queries.txy[v, n].tolist()
        assert clip.tracks.visible[v, 4 * int(frame), n]
        assert clip.tracks.xy[v, 4 * int(frame), n].tolist() == [x, y]


def test_tracks_come_at_video_rate_and_an_oracle_scores_one(model, clip):
    tracked = track_clip(model, clip)
    assert tracked.predicted.xy.shape == clip.tracks.xy.shape
    oracle = score_tracks(tracked, replace(tracked.truth))
    assert oracle["delta_avg"] == oracle["average_jaccard"] == oracle["occlusion_accuracy"] == 1
    assert oracle["epipolar_error_px"] < 0.05
    resting = still(tracked)
    frame = tracked.query_frame[0, 0].long()
    assert torch.equal(resting.xy[0, 2, 0], tracked.truth.xy[0, frame, 0])
    assert score_tracks(tracked, resting)["delta_avg"] < 1


def test_scores_of_a_model_stand_beside_the_baselines(model, clip):
    tracked, rows = score_model(model, [clip])
    assert len(tracked) == 1
    assert list(rows) == ["model", "model, views apart", "points stay where they were"]
    names = {tuple(scores[0]) for scores in rows.values()}
    assert len(names) == 1


def test_a_model_without_a_head_is_refused(small_model, clip):
    with pytest.raises(ValueError, match="no tracking head: train one"):
        track_clip(small_model, clip)


def test_the_pinned_cases_move_far():
    cases = load_tracking_cases()
    assert len(cases) == 32
    assert len({case.seed for case in cases}) == 32
    for case in cases[::16]:
        assert still_delta(render_case(case, num_points=64).clip.tracks, case.size) <= 0.25


def test_points_that_stay_score_one_where_nothing_moves():
    xy = torch.rand(2, 1, 7, 2).expand(2, 5, 7, 2) * 20
    tracks = Tracks(xy, torch.ones(2, 5, 7, dtype=torch.bool), torch.ones(2, 7, dtype=torch.bool))
    assert still_delta(tracks, (24, 32)) == 1
