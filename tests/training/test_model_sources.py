"""Models by path. Checkpoints as a run writes them are covered by the slow test, in a run of a few steps."""

import json
import subprocess
import sys
from copy import deepcopy
from pathlib import Path

import pytest
import torch
import yaml

from mvtrack.models.reshoot_model import load_model, save_model
from mvtrack.training.model_sources import model_sources

ROOT = Path(__file__).parents[2]


def names(paths) -> list[tuple[str, int | None]]:
    return [(source.name, source.step) for source in model_sources(paths)]


def test_models_open_from_folders_and_files(small_model, tmp_path):
    save_model(small_model, tmp_path / "one")
    save_model(small_model, tmp_path / "run" / "model")
    (tmp_path / "run/model/training.json").write_text(json.dumps({"step": 70}))
    assert names([tmp_path / "one", tmp_path / "run/model"]) == [("one", None), ("run", 70)]
    assert names([tmp_path / "run"]) == [("run", 70)]
    assert names([tmp_path / "one/model.safetensors"]) == [("one", None)]
    source = model_sources([tmp_path / "one"])[0]
    assert source.weights == tmp_path / "one/model.safetensors"
    loaded = source.load().dit.state_dict()
    assert all(torch.equal(loaded[name], value) for name, value in small_model.dit.state_dict().items())


def test_missing_models_and_repeated_names_raise(small_model, tmp_path):
    with pytest.raises(ValueError, match="nothing holds no model: give a folder with model.safetensors"):
        model_sources([tmp_path / "nothing"])
    save_model(small_model, tmp_path / "a/tiny")
    save_model(small_model, tmp_path / "b/tiny")
    with pytest.raises(ValueError, match="tiny is given more than once"):
        model_sources([tmp_path / "a/tiny", tmp_path / "b/tiny"])


@pytest.fixture(scope="module")
def trained(small_run, tmp_path_factory) -> Path:
    """The folder of a run of four steps with two checkpoints."""
    root, tree = tmp_path_factory.mktemp("trained"), deepcopy(small_run)
    tree["train"] |= {"run_dir": str(root / "run"), "steps": 4, "save_every": 2, "keep_last": 9}
    (root / "run.yaml").write_text(yaml.safe_dump(tree))
    command = [sys.executable, str(ROOT / "mvtrack/train.py"), "--config", str(root / "run.yaml")]
    done = subprocess.run(command, capture_output=True, text=True, cwd=root, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    return root / "run"


@pytest.mark.slow
def test_run_stands_for_its_checkpoints(trained, tmp_path):
    assert names([trained]) == [("run_step_0000002", 2), ("run_step_0000004", 4)]
    assert names([trained / "checkpoints/step_0000004"]) == [("run_step_0000004", 4)]
    last = model_sources([trained])[-1]
    exported = load_model(trained / "model").dit.state_dict()
    averaged, live = last.load().dit.state_dict(), last.load("weight").dit.state_dict()
    assert all(torch.equal(averaged[name], value) for name, value in exported.items())
    assert any(not torch.equal(live[name], value) for name, value in exported.items())


@pytest.mark.slow
def test_growth_script_draws_alignment(trained, tmp_path):
    command = [sys.executable, str(ROOT / "eval/correspondence.py"), "--model", str(trained),
               "--clips", "3", "--steps", "2", "--queries", "64", "--pictures", "--perturb", "1", "--sample-steps", "1",
               "--overlays", "1", "--out", str(tmp_path / "o")]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "| run_step_0000002 | 2 | " in done.stdout
    made = {p.name for p in (tmp_path / "o/run_step_0000004").iterdir()}
    assert made == {
        "attention.json", "attention.md", "heat_maps.png", "heads.png", "curves.png", "space.png", "correlation.png",
        "perturbation.png", "overlay_0.png",
    }  # fmt: skip
    assert {p.name for p in (tmp_path / "o").iterdir() if p.is_file()} == {"growth.json", "growth.md", "growth.png"}
    record = json.loads((tmp_path / "o/run_step_0000004/attention.json").read_text())
    assert record["perturbation"]["undisturbed_psnr_db"]["count"] == 1
    assert len(record["quality"]["ssim"]) == 3
