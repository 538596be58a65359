"""The scripts about still scenes, run as a user runs them."""

import json

import cv2
import pytest

from mvtrack.models.reshoot_model import save_model


@pytest.mark.parametrize("encoding", ["images", "path"])
def test_unseen_still_scenes_are_scored_and_drawn(still_model, tmp_path, run, encoding):
    save_model(still_model(encoding), tmp_path / "model")
    out = tmp_path / "out"
    code, shown, _ = run("static.py", "--model", tmp_path / "model", "--out", out, "--cases", 3, "--steps", 1)
    assert code == 0
    assert "| all |" in shown
    record = json.loads((out / "static.json").read_text())
    assert [row["given"] for row in record["cases"]] == [1, 2, 1]
    assert record["summary"]["1 given"]["psnr_db"]["count"] == 2
    sheet = cv2.imread(str(out / "views_0.png"))
    assert sheet.shape[1] == 2 * 3 * 2 * 32  # two columns of three views, twice as large
    code, _, errors = run("static.py", "--model", tmp_path / "model", "--camera-guidance", 2)
    assert code == 2
    assert "trained with cameras left out" in errors


def test_a_model_that_reshoots_videos_is_refused(small_model, tmp_path, run):
    save_model(small_model, tmp_path / "model")
    code, _, errors = run("static.py", "--model", tmp_path / "model")
    assert code == 2
    assert "re-shoots videos: score it with eval/yardstick.py" in errors
