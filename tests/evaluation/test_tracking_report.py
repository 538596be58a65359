import csv
import json

import pytest

from mvtrack.evaluation.tracking.report import HIDDEN, paired, pooled_hidden, summarise, tables, verdict, write_report
from mvtrack.models.reshoot_model import save_model

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
