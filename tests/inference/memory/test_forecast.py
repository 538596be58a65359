import re

from mvtrack.cli.main import main as cli
from mvtrack.models.reshoot_model import save_model


def test_a_size_the_model_never_saw_comes_with_an_estimate_before_work(video, small_model, tmp_path, capsys):
    folder = save_model(small_model, tmp_path / "model").parent
    command = ["reshoot", str(video), "--camera", "pan_left 5", "--model", str(folder), "--steps", "1", "--out"]
    assert cli([*command, str(tmp_path / "a")]) == 0
    assert "estimates" not in capsys.readouterr().err
    assert cli([*command, str(tmp_path / "b"), "--size", "24x40"]) == 0
    first = capsys.readouterr().err.splitlines()[0]
    assert re.fullmatch(r"mvtrack reshoot: 7 frames of 24x40 in 1 steps: about 1 s, \d\.\d GiB \(estimates\)", first)
