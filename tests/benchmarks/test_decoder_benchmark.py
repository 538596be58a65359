import importlib.util
import json
import sys
from functools import partial
from pathlib import Path

import pytest
import torch

from mvtrack.models.decoder.wan import WanAligner
from mvtrack.models.diffsynth_parts import diffsynth_module

FOLDER = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.mark.skipif(not importlib.util.find_spec("diffsynth"), reason="diffsynth is not installed")
def test_decoder_benchmark_measures_both_ways(monkeypatch, capsys):
    monkeypatch.syspath_prepend(str(FOLDER))
    spec = importlib.util.spec_from_file_location("decoder_benchmark", FOLDER / "decoder.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    network = diffsynth_module("wan_video_vae").VideoVAE_
    monkeypatch.setattr(module, "empty_wan_network", lambda channels: network(dim=4, z_dim=channels))
    monkeypatch.setattr(module, "WanAligner", partial(WanAligner, 4))
    monkeypatch.setattr(module, "in_fresh_process", lambda name, small: {"codec": 100.0, "aligned": 150.0}[name])
    monkeypatch.setattr(torch, "set_num_threads", lambda _: None)
    monkeypatch.setattr(sys, "argv", ["decoder.py", "--small", "--rounds", "1"])
    assert module.main() == 0
    figures = json.loads(capsys.readouterr().out.splitlines()[-1])["figures"]
    assert figures["time / codec"] == pytest.approx(figures["aligned: s"] / figures["codec: s"], rel=1e-2)
    assert figures["memory / codec"] == 1.5
