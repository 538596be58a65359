import csv
import json
from dataclasses import replace

import cv2
import pytest
import torch

from mvtrack.data.synthetic.test_scenes import CaseSpec, render_case
from mvtrack.evaluation.manifest import load_tracking_cases, still_delta
from mvtrack.evaluation.tracking.pictures import tracking_sheet
from mvtrack.evaluation.tracking.report import HIDDEN, paired, pooled_hidden, summarise, tables, verdict, write_report
from mvtrack.evaluation.tracking.scores import score_model, score_tracks, target_scores
from mvtrack.evaluation.tracking.tracked_clips import (
    draw_queries,
    follow_reference,
    still,
    track_clip,
    track_shuffled,
    true_depth_starts,
)
from mvtrack.inference.tracking.features import view_features
from mvtrack.inference.tracking.scene import require_head
from mvtrack.models.conditioning import Window
from mvtrack.models.reshoot_model import build_model, save_model
from tracking_head import Tracks


@pytest.fixture(scope="module")
def clip():
    return render_case(CaseSpec(5, "arc_left", 20.0, 0.0, (24, 32), 5), num_points=13).clip


def test_features_stand_at_the_anchors(tracking_model, clip):
    features = view_features(tracking_model, clip.video, Window(clip.camera, clip.scene_depth))
    assert features.q.shape == features.k.shape == (2, 2, 6, 8, 2, 12)
    again = view_features(tracking_model, clip.video, Window(clip.camera, clip.scene_depth))
    assert torch.equal(features.q, again.q)


def test_queries_lie_on_visible_points(clip):
    queries = draw_queries(clip.tracks, (24, 32), seed=3)
    for v, n in queries.valid.nonzero().tolist():
        frame, x, y = queries.txy[v, n].tolist()
        assert clip.tracks.visible[v, 4 * int(frame), n]
        assert clip.tracks.xy[v, 4 * int(frame), n].tolist() == [x, y]


def test_tracks_come_at_video_rate_and_an_oracle_scores_one(tracking_model, clip):
    tracked = track_clip(tracking_model, clip)
    assert tracked.predicted.xy.shape == clip.tracks.xy.shape
    oracle = score_tracks(tracked, replace(tracked.truth))
    assert oracle["delta_avg"] == oracle["average_jaccard"] == oracle["occlusion_accuracy"] == 1
    assert oracle["epipolar_error_px"] < 0.05
    assert oracle["first_delta_avg"] == oracle["latent_delta_avg"] == oracle["view_1_delta_avg"] == 1
    assert oracle["cross_view_pck"] == 1
    resting = still(tracked)
    frame = tracked.query_frame[0, 0].long()
    assert torch.equal(resting.xy[0, 2, 0], tracked.truth.xy[0, frame, 0])
    assert score_tracks(tracked, resting)["delta_avg"] < 1


def test_scores_of_a_model_stand_beside_what_they_are_compared_with(tracking_model, clip):
    other = render_case(CaseSpec(6, "pan_left", 15.0, 0.0, (24, 32), 5), num_points=13).clip
    tracked, rows = score_model(tracking_model, [clip, other])
    assert len(tracked) == 2
    assert list(rows) == [
        "model", "model, views apart", "model, other views of another clip", "points stay where they were",
        "target view, true starts", "target view, starts by attention", "target view, starts by attention alone",
        "target view, starts by true depth",
    ]  # fmt: skip
    for who, scores in rows.items():
        assert len(scores) == 2
        assert list(scores[0]) == list(rows["target view, true starts" if who.startswith("target") else "model"][0])
    assert rows["target view, starts by true depth"][0]["found"] > 0.5


def test_another_clip_beside_a_view_changes_it_and_its_own_does_not(tracking_model, clip):
    """Shuffling with the clip itself is tracking both views at once; with another clip it is not."""
    tracker = require_head(tracking_model)
    one = track_clip(tracking_model, clip)
    same = track_shuffled(tracker, one, one)
    torch.testing.assert_close(same.xy[0], one.predicted.xy[0], atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(same.xy[1], one.predicted.xy[1], atol=1e-4, rtol=1e-4)
    other = track_clip(tracking_model, render_case(CaseSpec(6, "pan_left", 15.0, 0.0, (24, 32), 5), num_points=13).clip)
    assert not torch.allclose(track_shuffled(tracker, one, other).xy, one.predicted.xy, atol=1e-4)


@pytest.mark.parametrize("camera", ["mean", "reference"])
def test_a_head_that_takes_cameras_is_scored_with_them(tracking_model, clip, camera):
    config = replace(tracking_model.config, tracking=replace(tracking_model.config.tracking, camera=camera))
    model = replace(tracking_model, config=config, dit=build_model(config, seed=4).dit)
    other = render_case(CaseSpec(6, "pan_left", 15.0, 0.0, (24, 32), 5), num_points=13).clip
    tracked, rows = score_model(model, [clip, other])
    assert torch.equal(tracked[0].cameras.c2w, clip.camera.c2w[:, ::4])
    assert len(rows) == 8
    same = track_shuffled(require_head(model), tracked[0], tracked[0])
    torch.testing.assert_close(same.xy[0], tracked[0].predicted.xy[0], atol=1e-4, rtol=1e-4)


def test_target_scores_of_an_oracle_are_one_and_of_nothing_found_zero(tracking_model, clip):
    tracker = require_head(tracking_model)
    followed = follow_reference(tracker, track_clip(tracking_model, clip), true_depth_starts(clip))
    assert followed.truth.valid.shape == (2, int(followed.queries.valid[0].sum()))
    oracle = target_scores(replace(followed, predicted=replace(followed.truth, valid=followed.truth.valid)))
    assert oracle.pop("starts_hidden") == 0  # by true depth
    assert set(oracle.values()) == {1}
    nothing = replace(followed.predicted, valid=torch.zeros_like(followed.predicted.valid))
    missed = target_scores(replace(followed, predicted=nothing))
    assert missed["delta_avg"] == missed["average_jaccard"] == missed["found"] == missed["cross_view_pck"] == 0
    assert missed["occlusion_accuracy"] == pytest.approx(1 - followed.truth.visible[1].float().mean().item())


def test_each_way_to_score_counts_its_own_frames_and_views(tracking_model, clip):
    """Errors put where only some of the ways look: view 1, off the anchors, before the query."""
    tracked = track_clip(tracking_model, clip)
    truth = tracked.truth
    number = torch.arange(clip.num_frames)[None, :, None]
    before = (number < tracked.query_frame[:, None]).expand_as(truth.visible)
    assert (before & truth.visible)[:, ::4].any()

    def scores(wrong):
        return score_tracks(tracked, replace(truth, xy=truth.xy + 1000.0 * wrong[..., None]))

    early = scores(before)
    assert early["first_delta_avg"] == 1
    assert early["delta_avg"] < 1
    between = scores((number % 4 != 0).expand_as(truth.visible))
    assert between["latent_delta_avg"] == 1
    assert between["delta_avg"] < 1
    second = torch.zeros_like(truth.visible)
    second[1] = True
    one = scores(second)
    assert one["view_0_delta_avg"] == 1
    assert one["view_1_delta_avg"] == one["cross_view_pck"] == 0
    assert one["delta_avg"] == 0.5


def test_hidden_points_are_counted_and_pooled(tracking_model, clip):
    tracked = track_clip(tracking_model, clip)
    truth = replace(tracked.truth, visible=tracked.truth.visible.clone(), xy=tracked.truth.xy.clamp(1, 20))
    truth.visible[:] = True
    truth.visible[0, 1, :4] = False
    truth.visible[1, 2, 5] = False
    tracked = replace(tracked, truth=replace(truth, valid=torch.ones_like(truth.valid)))
    tracked = replace(tracked, query_frame=torch.zeros_like(tracked.query_frame))
    xy = truth.xy.clone()
    xy[0, 1, :4, 0] += 3.0  # 24 px of 256
    found = score_tracks(tracked, replace(truth, xy=xy))
    assert found["hidden_here_count"] == 5
    assert found["hidden_here_mean_px_of_256"] == pytest.approx(12, rel=1e-4)  # of the views' 24 and 0
    assert found["hidden_here_pooled_px_of_256"] == pytest.approx(24 * 4 / 5, rel=1e-4)


def test_starts_where_the_point_is_hidden_are_counted(tracking_model, clip):
    tracker = require_head(tracking_model)
    followed = follow_reference(tracker, track_clip(tracking_model, clip), true_depth_starts(clip))
    begun = followed.start[1, :, 0] >= 0
    assert torch.equal(begun, followed.predicted.valid[1])
    n = int(begun.nonzero()[0, 0])
    followed.truth.visible[1, int(followed.start[1, n, 0]), n] = False
    assert target_scores(followed)["starts_hidden"] == pytest.approx(1 / int(begun.sum()))


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


def test_the_sheet_shows_every_view_at_three_frames(tracking_model, clip, tmp_path):
    tracker = require_head(tracking_model)
    followed = follow_reference(tracker, track_clip(tracking_model, clip), true_depth_starts(clip))
    tracking_sheet(tmp_path / "sheet.png", [followed, followed])
    picture = cv2.imread(str(tmp_path / "sheet.png"))
    assert picture.shape[1] == 2 * 3 * 320
    assert picture.shape[0] == 240 + 2 * 24  # titles, the clip's name, its frames (one row: both clips are one)


NAN = float("nan")


def scores(delta: float, hidden: float, count: int = 1) -> dict[str, float]:
    return {
        "delta_avg": delta, "average_jaccard": delta - 0.1, "occlusion_accuracy": 0.96, HIDDEN: hidden,
        "hidden_here_pooled_px_of_256": hidden, "hidden_here_count": count, "majority_occlusion_accuracy": 0.9,
        "first_delta_avg": delta,
    }  # fmt: skip


@pytest.fixture
def rows():
    """Three clips that differ more than what they are asked with does; in the last one nothing is hidden."""
    model = [scores(0.5, 2.0, 1), scores(0.9, 20.0, 3), scores(0.7, NAN, 0)]
    return {
        "model": model,
        "model, views apart": [scores(0.4, 2.5, 1), scores(0.85, 20.3, 3), scores(0.75, NAN, 0)],
        "model, other views of another clip": [scores(0.3, 3.0, 1), scores(0.8, 21.0, 3), scores(0.6, NAN, 0)],
        "points stay where they were": [scores(0.2, 30.0, 1)] * 2 + [scores(0.2, NAN, 0)],
        "target view, true starts": [{"delta_avg": 0.7, "found": 1.0}] * 3,
        "target view, starts by attention": [{"delta_avg": 0.5, "found": 0.5}] * 3,
    }


def test_differences_are_of_the_same_clip(rows):
    found = paired(rows)
    assert "model" not in found
    apart = found["model, views apart"]
    assert apart[HIDDEN]["mean"] == pytest.approx(0.4)
    assert apart[HIDDEN]["low"] >= 0.3 - 1e-9  # the clips themselves are 18 px apart
    assert (apart[HIDDEN]["count"], apart[HIDDEN]["higher"]) == (2, 2)
    assert (apart["delta_avg"]["count"], apart["delta_avg"]["higher"]) == (3, 1)
    assert found["target view, starts by attention"]["delta_avg"]["mean"] == pytest.approx(-0.2)  # from true starts


def test_pooled_errors_weigh_every_point_alike(rows):
    hidden = pooled_hidden(rows)
    assert hidden["model"] == {"px_of_256": pytest.approx((2.0 + 3 * 20.0) / 4), "count": 4}
    assert not any(who.startswith("target") for who in hidden)


def test_the_verdict_asks_that_hidden_points_suffer_without_the_views(rows):
    end = verdict(summarise(rows), paired(rows))
    assert end["met"]
    assert set(end["figures"]) == set(end["targets"])
    rows["model, views apart"][0][HIDDEN] = 1.0  # better without the other view
    worse = verdict(summarise(rows), paired(rows))
    assert not worse["met"]
    assert worse["figures"]["hidden here, views apart: least rise, px of 256"] == pytest.approx(-1.0)


def test_without_hidden_points_nothing_is_shown(rows):
    for column in rows.values():
        for i, row in enumerate(column):
            column[i] = {name: NAN if name == HIDDEN else value for name, value in row.items()}
    end = verdict(summarise(rows), paired(rows))
    assert end["figures"]["hidden here, shuffled: least rise, px of 256"] is None
    assert not end["met"]


@pytest.mark.parametrize(("name", "value"), [("delta_avg", 0.1), ("average_jaccard", 0.1), ("occlusion_accuracy", 0.9)])
def test_every_other_target_counts(rows, name, value):
    for row in rows["model"]:
        row[name] = value
    assert not verdict(summarise(rows), paired(rows))["met"]


def test_json_is_strict_and_csv_holds_every_clip(rows, tmp_path):
    write_report(tmp_path / "new", {"summary": summarise(rows)}, "", rows, ["a", "b", "c"])

    def refuse(constant):
        raise AssertionError(f"{constant} is not JSON")

    record = json.loads((tmp_path / "new/tracking.json").read_text(), parse_constant=refuse)
    assert record["cases"]["c"]["model"][HIDDEN] is None
    assert record["cases"]["b"]["model"][HIDDEN] == 20.0
    assert record["summary"]["model"][HIDDEN]["count"] == 2
    lines = list(csv.DictReader((tmp_path / "new/tracking.csv").read_text().splitlines()))
    assert len(lines) == 3 * len(rows)
    assert lines[1]["clip"] == "b"


def test_tables_hold_every_way_to_ask_and_to_score(rows):
    text = tables(summarise(rows), paired(rows), pooled_hidden(rows))
    assert "| model | 0.700 (" in text
    assert "0.400 (0.300 to 0.500), 2 of 2" in text  # paired
    assert "- model: 15.50 px of 256 (4 points)" in text
    assert "| first_delta_avg | 0.700 (" in text
    assert "hidden_here_count" not in text


def test_scenes_are_rendered_as_the_model_sees(tracking_model, tmp_path, run):
    """The fixture's model looks at other pictures than the pinned ones; the command says so and scores its own."""
    save_model(tracking_model, tmp_path / "model")
    code, _, errors = run(
        "tracking.py", "--model", tmp_path / "model", "--out", tmp_path / "out", "--clips", 2, "--debug"
    )
    assert code == 0
    record = json.loads((tmp_path / "out/tracking.json").read_text())
    assert tuple(record["size"]) == tracking_model.config.sizes[0] != (64, 64)
    assert record["frames"] == tracking_model.config.num_frames
    assert record["pinned"] is False
    assert "scores compare with those of models of that size only" in errors
