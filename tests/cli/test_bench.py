"""The table of what each option does here: every option is a row, with a time or with why it has none."""

from pathlib import Path

import pytest
import torch

from mvtrack.cli.main import main as cli
from mvtrack.config.run import load_config
from mvtrack.inference import bench
from mvtrack.inference.memory.transformer import InputShape
from mvtrack.models.dit import WanDiT
from mvtrack.models.reshoot_model import save_model

CONFIGS = Path(__file__).parents[2] / "configs"


def no_compiler(self):
    raise ValueError("no compiler here. And more")


def no_processes(*_):
    raise ValueError("no second process here")


def test_every_option_has_a_time_or_a_reason(small_model, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(WanDiT, "compile_blocks", no_compiler)
    monkeypatch.setattr(bench, "Ranks", no_processes)
    model = str(save_model(small_model, tmp_path / "model").parent)
    assert cli(["bench", "--model", model, "--rounds", "1", "--layers", "5", "--device", "cpu"]) == 0
    head, base, *rows, last = capsys.readouterr().out.splitlines()
    assert "float32, 2 of 2 blocks, 24x32, 5 frames, 2 views: 192 tokens" in head
    assert base.startswith("as it is")
    assert base.endswith("1.00 x")
    assert last.startswith("a pass of all blocks as it is: about ")
    times = {row[:26].strip() for row in rows if row.endswith(" x")}
    reasons = {row[:26].strip(): row[37:] for row in rows if not row.endswith(" x")}
    assert {"--attention blocked", "--precision bfloat16", "--quantize int8", "reference_attention: own"} <= times
    assert reasons["--compile"] == "no compiler here"
    assert reasons["--cuda-graphs"] == "it is for a GPU"
    assert reasons["--gpus 2"] == "no second process here"
    assert "fp8_dynamic needs a GPU" in reasons["--quantize fp8_dynamic"]
    assert cli(["bench", "--model", model, "--size", "26x32", "--device", "cpu"]) == 2
    assert "--size 26x32 is not divisible by the model's token size 4" in capsys.readouterr().err


def test_options_leave_each_other_alone(small_model, monkeypatch):
    """The network as it is gives the same after all options were built as before."""
    monkeypatch.setattr(WanDiT, "compile_blocks", lambda self: None)
    monkeypatch.setattr(bench, "Ranks", no_processes)
    seen = {}
    run = bench._run
    monkeypatch.setattr(bench, "_run", lambda dit, inputs: seen.setdefault(id(dit), []).append(run(dit, inputs)))
    bench.time_options(small_model.config, 2, InputShape((24, 32), 5), torch.device("cpu"), torch.float32, 2)
    plain = next(iter(seen.values()))
    assert len(plain) == 3
    assert torch.equal(plain[0], plain[1])
    assert torch.equal(plain[0], plain[2])


def test_networks_of_diffusers_are_refused():
    config = load_config(CONFIGS / "cameo_cat3d.yaml").model
    with pytest.raises(ValueError, match="options that are compared are WanDiT's"):
        bench.time_options(config, 1, InputShape((64, 64), 1), torch.device("cpu"), torch.float32, 1)
