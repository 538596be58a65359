from pathlib import Path

import pytest
import yaml

from mvtrack import train


def test_overrides_may_stand_on_either_side_of_options(monkeypatch):
    seen = []
    monkeypatch.setattr(train, "_train", seen.append)
    assert train.main(["--config", "a.yaml", "train.steps=3", "--resume", "auto", "optim.lr=1e-3"]) == 0
    assert seen[0].overrides == ("train.steps=3", "optim.lr=1e-3")
    assert seen[0].resume == "auto"


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("train.precision=fp16", "train: precision must be one of fp32, bf16, autocast_bf16, got 'fp16'"),
        ("train.init_from=nowhere", "nowhere"),
        ("model.dit.text_dim=7", "run `mvtrack prepare --rendered N`"),
    ],
)
def test_failed_start_leaves_no_folder(small_run, tmp_path, monkeypatch, capsys, override, message):
    monkeypatch.chdir(tmp_path)
    small_run["train"]["run_dir"] = "runs/a/b"
    Path("run.yaml").write_text(yaml.safe_dump(small_run))
    assert train.main(["--config", "run.yaml", "--ignore-memory", override]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert not Path("runs").exists()
