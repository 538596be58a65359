import json

import pytest

from mvtrack.config.run import RunConfig
from mvtrack.config.tree import from_tree
from mvtrack.evaluation.ablation import (
    compare,
    curve_table,
    plot_curves,
    plot_pairs,
    read_curves,
    remembered,
    table,
    train_in_a_process,
)

WITHOUT = [{"pck": 0.2, "psnr_db": 20.0}, {"pck": 0.3, "psnr_db": 21.0}, {"pck": 0.4, "psnr_db": 25.0}]
WITH = [{"pck": 0.5, "psnr_db": 19.0}, {"pck": 0.5, "psnr_db": 22.0}, {"pck": 0.8, "psnr_db": 24.0}]
TITLES = {"pck": ("PCK, %", 100.0, ".1f"), "psnr_db": ("PSNR, dB", 1.0, ".2f")}


def test_differences_are_taken_seed_by_seed():
    pck = compare(WITHOUT, WITH)["pck"]
    assert pck["difference"]["values"] == pytest.approx([0.3, 0.2, 0.4])
    assert pck["difference"]["mean"] == pytest.approx(0.3)
    assert pck["difference"]["sd"] == pytest.approx(0.1)
    assert pck["without"]["sd"] == pytest.approx(0.1)
    assert pck["with"]["mean"] == pytest.approx(0.6)
    assert compare(WITHOUT[:1], WITH[:1])["pck"]["with"]["sd"] is None
    with pytest.raises(ValueError, match="1 are NaN"):
        compare([{"pck": float("nan")}], [{"pck": 1.0}])


def test_the_table_says_what_was_measured(tmp_path):
    comparison = compare(WITHOUT, WITH)
    lines = table(comparison, TITLES, {"pck": 0.1, "psnr_db": 18.0}).splitlines()
    assert lines[0] == "|  | before | without | with | difference |"
    assert lines[2] == "| PCK, % | 10.0 | 30.0 ± 10.0 | 60.0 ± 17.3 | +30.0 ± 10.0 |"
    assert lines[3] == "| PSNR, dB | 18.00 | 22.00 ± 2.65 | 21.67 ± 2.52 | -0.33 ± 1.15 |"
    assert table(compare(WITHOUT[:1], WITH[:1]), TITLES).splitlines()[2] == "| PCK, % | 20.0 | 50.0 | +30.0 |"
    plot_pairs(tmp_path / "new" / "pairs.png", comparison, TITLES, {"pck": 0.1, "psnr_db": 18.0})
    assert (tmp_path / "new" / "pairs.png").stat().st_size > 5000


def test_curves_come_from_the_log(tmp_path):
    path = tmp_path / "metrics.jsonl"
    lines = [{"step": 2, "loss/total": 1.0}, {"step": 4, "a": 3.0, "b": 1.0}, {"step": 8, "a": 2.0, "b": 5.0, "c": 0.0}]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    curve = read_curves(path, ["a", "b"])
    assert curve == {"step": [4, 8], "a": [3.0, 2.0], "b": [1.0, 5.0]}
    higher = {name: values if name == "step" else [v + 1 for v in values] for name, values in curve.items()}
    titles = {"a": ("error", ".2f"), "b": ("PSNR, dB", ".1f")}
    runs = {"without": [curve, higher], "with": [curve]}
    rows = curve_table(runs, titles).splitlines()
    assert rows[0] == "|  | step 4 | step 8 |"
    assert rows[2] == "| error, without | 3.50 ± 0.71 | 2.50 ± 0.71 |"
    assert rows[5] == "| PSNR, dB, with | 1.0 | 5.0 |"
    plot_curves(tmp_path / "curves.png", runs, titles)
    assert (tmp_path / "curves.png").stat().st_size > 5000
    with pytest.raises(ValueError, match="metrics.jsonl has no line with a, nothing"):
        read_curves(path, ["a", "nothing"])


def test_scores_are_measured_once_per_key(tmp_path):
    calls = []

    def measure() -> dict:
        calls.append(1)
        return {"pck": len(calls)}

    path = tmp_path / "scores.json"
    assert [remembered(path, {"cases": 3}, measure) for _ in range(2)] == [{"pck": 1}] * 2
    assert remembered(path, {"cases": 4}, measure) == {"pck": 2}
    assert len(calls) == 2


def test_a_finished_run_is_not_trained_again_and_a_failing_one_is_named(tmp_path, small_run):
    tree = small_run | {"train": small_run["train"] | {"run_dir": str(tmp_path / "arm_0")}}
    config = from_tree(RunConfig, tree, "tree")
    (tmp_path / "arm_0" / "model").mkdir(parents=True)
    (tmp_path / "arm_0" / "model" / "training.json").write_text(json.dumps({"step": 4}))
    assert train_in_a_process(config) == tmp_path / "arm_0" / "model"
    (tmp_path / "arm_0" / "model" / "training.json").write_text(json.dumps({"step": 3}))
    tree["train"]["init_from"] = "nowhere"
    with pytest.raises(ValueError, match="arm_0 ended with exit code 2"):
        train_in_a_process(from_tree(RunConfig, tree, "tree"))
