"""The scripts about still scenes, run as a user runs them."""

import json
import runpy
import sys
from dataclasses import replace
from pathlib import Path

import cv2
import pytest

from mvtrack.config.views import ViewsConfig
from mvtrack.models.reshoot_model import ReshootModel, build_model, save_model

ROOT = Path(__file__).parents[2]


def run(monkeypatch, script: str, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", [script, *arguments])
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(ROOT / "eval" / script), run_name="__main__")
    return ended.value.code


@pytest.mark.parametrize("encoding", ["images", "path"])
def test_unseen_still_scenes_are_scored_and_drawn(small_model, tmp_path, monkeypatch, capsys, encoding):
    views = ViewsConfig(3, (1, 2), encoding)
    dit = replace(small_model.config.dit, rope_frames="by_view")
    config = replace(small_model.config, views=views, num_frames=views.num_frames, dit=dit)
    save_model(ReshootModel(config, build_model(config).dit, small_model.codec), tmp_path / "model")
    out = tmp_path / "out"
    assert run(monkeypatch, "static.py", "--model", str(tmp_path / "model"), "--out", str(out), "--cases", "3",
               "--steps", "1") == 0  # fmt: skip
    record = json.loads((out / "static.json").read_text())
    assert [row["given"] for row in record["cases"]] == [1, 2, 1]
    assert record["summary"]["1 given"]["psnr_db"]["count"] == 2
    assert "| all |" in capsys.readouterr().out
    sheet = cv2.imread(str(out / "views_0.png"))
    assert sheet.shape[1] == 2 * 3 * 2 * 32  # two columns of three views, twice as large
    assert run(monkeypatch, "static.py", "--model", str(tmp_path / "model"), "--camera-guidance", "2") == 2
    assert "trained with cameras left out" in capsys.readouterr().err


def test_scripts_refuse_what_they_cannot_compare(small_model, tmp_path, monkeypatch, capsys):
    save_model(small_model, tmp_path / "model")
    monkeypatch.chdir(ROOT)
    for script, arguments, message in (
        ("static.py", ["--model", str(tmp_path / "model")], "re-shoots videos: score it with eval/yardstick.py"),
        ("static_supervision.py", ["--config", "configs/tiny.yaml"], "must set model.views and loss.correspondence"),
        ("static_supervision.py", ["--seeds", "0"], "--seeds, --steps, --every and --scenes must be at least 1"),
        ("supervision.py", ["loss.correspondence=0"], "has loss.correspondence 0: there is nothing to compare with"),
        ("supervision.py", ["--cases", "0"], "--cases and --scenes must be at least 1"),
    ):
        assert run(monkeypatch, script, *arguments) == 2
        assert message in capsys.readouterr().err
