import copy
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from mvtrack.data.public.registry import LAYOUTS
from tests.data.public.synthesis import synthesise
from tests.data.public.test_kubric import write_mv_kubric

ROOT = Path(__file__).parents[2]


def test_script_renders_banks_of_config(small_run, tmp_path):
    run = copy.deepcopy(small_run)
    run["data"]["banks"][0] |= {"root": str(tmp_path / "bank"), "num_scenes": 3}
    config = tmp_path / "run.yaml"
    config.write_text(yaml.safe_dump(run))
    command = [sys.executable, ROOT / "datasets/rendered.py", "--config", config, "--workers", "1"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"{tmp_path / 'bank'}: 3 scenes\n"
    assert len(list((tmp_path / "bank").glob("scene_*.safetensors"))) == 3


def test_script_says_what_a_dataset_holds(tmp_path):
    truth = synthesise(5, views=2, frames=3, size=(38, 58), points=13)
    write_mv_kubric(tmp_path / "train/0", truth)
    write_mv_kubric(tmp_path / "train/1", truth)
    (tmp_path / "train/1/view_1/depth_00002.tiff").unlink()
    command = [sys.executable, ROOT / "datasets/check.py", tmp_path]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, timeout=120)
    assert done.returncode == 2
    lines = done.stdout.splitlines()
    assert lines[0] == f"{tmp_path}: MV-Kubric (MVTracker) (--layout mv-kubric), 2 scenes"
    assert lines[1].startswith("  train_0: 2 views of 3 frames, 38x58, perspective cameras, depth ")
    assert "13 tracks" in lines[1]
    assert lines[2].endswith("view_1 lacks depth_00002.tiff")
    assert "1 of the 2 scenes that were read are broken" in done.stderr


@pytest.mark.parametrize("name", sorted(LAYOUTS.keys() - {"clips", "photographs"}))
def test_every_public_dataset_has_a_script_that_expects_it(name, tmp_path, monkeypatch, capsys):
    """In this process, as `python datasets/NAME.py` runs it: what it imports is beside it."""
    script = ROOT / f"datasets/{name.replace('-', '_')}.py"
    monkeypatch.syspath_prepend(script.parent)
    monkeypatch.delitem(sys.modules, "check", raising=False)
    monkeypatch.setattr(sys, "argv", [str(script), str(tmp_path)])
    with pytest.raises(SystemExit, match="^2$"):
        runpy.run_path(str(script), run_name="__main__")
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert LAYOUTS[name].signs[0] in error
