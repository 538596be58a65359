import argparse
import importlib
import json
import sys
import warnings

import pytest
import torch

from mvtrack.config.model import DiTConfig
from mvtrack.models.diffsynth_parts import diffsynth_module


@pytest.fixture
def peer():
    """DiffSynth's transformer, imported with its neighbours' warnings left out."""
    if importlib.util.find_spec("diffsynth") is None:  # not importorskip: importing it takes diffsynth_module
        pytest.skip("the comparison needs diffsynth: pip install -e '.[wan]'")
    diffsynth_module("wan_video_dit")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        importlib.import_module("diffsynth.pipelines.wan_video")


@pytest.mark.slow
def test_small_full_size_run_covers_all_parts(benchmark, capsys, monkeypatch):
    module = benchmark("full_size", "--small", "--preset", "redirector_1.3b")
    monkeypatch.setattr(sys.modules["peer_diffsynth"], "why_missing", lambda: "left out")
    assert module.main() == 0
    out = capsys.readouterr().out.splitlines()
    assert out[0] == "redirector_1.3b, cpu, attention by cpu, eager"
    assert "no comparison: left out" in out
    assert [line.split(":")[0] for line in out[1:5]] == ["forward", "step", "tracking", "correspondence"]
    figures = json.loads(out[-1])["figures"]
    assert figures["tokens"] == 2 * 2 * 2 * 3
    assert figures["step, s"] > 0
    assert 0 < figures["trained, millions"] < figures["parameters, millions"]
    for loss in ("tracking", "correspondence"):
        assert 0 < figures[f"{loss}: share of a step"] < 1


@pytest.mark.slow
def test_small_full_size_run_compares_with_diffsynth(benchmark, capsys, peer):
    module = benchmark("full_size", "--small")
    assert module.main() == 0
    figures = json.loads(capsys.readouterr().out.splitlines()[-1])["figures"]
    for what in ("forward", "step"):
        ours, theirs = (figures[f"plain Wan, {name}: {what}, s"] for name in ("ours", "theirs"))
        assert figures[f"plain Wan: {what} / theirs"] == pytest.approx(ours / theirs, rel=1e-2)


def test_small_attention_run_times_both_kernels_and_the_chosen_one(benchmark, capsys):
    module = benchmark("attention_cpu", "--small", "--rounds", "1")
    assert module.main() == 0
    figures = json.loads(capsys.readouterr().out.splitlines()[-1])["figures"]
    for use in ("forward", "with backward"):
        ratios = {figures[f"float32, 37 tokens, {use}: blocked / fused"], 1.0}
        assert figures[f"float32, 37 tokens, {use}: chosen / fused"] in ratios
    steps = [figures[f"training step: {name}, s"] for name in ("full", "factorised")]
    assert figures["training step: full / factorised"] == pytest.approx(steps[0] / steps[1], rel=1e-2)


@pytest.mark.gpu
def test_doctor_estimates_hold_on_gpu(benchmark, capsys, monkeypatch):
    module = benchmark("full_size", "--layers", "4", "--frames", "9", "--rounds", "1", "--no-compile")
    monkeypatch.setattr(sys.modules["peer_diffsynth"], "why_missing", lambda: "left out")
    module.main()
    figures = json.loads(capsys.readouterr().out.splitlines()[-1])["figures"]
    assert figures["forward: doctor off by"] < 0.15
    assert figures["step: doctor off by"] < 0.15


@pytest.mark.slow
def test_compiled_run_also_runs_eager(benchmark, monkeypatch, peer):
    module = benchmark("plain_wan")
    compiled = []
    monkeypatch.setattr(module.WanDiT, "compile_blocks", lambda dit: compiled.append(dit))
    options = argparse.Namespace(
        frames=5, size=(32, 48), keep="attention", attention="auto", compile=True, rounds=1, plain_steps=False
    )
    config = DiTConfig(dim=96, ffn_dim=160, num_heads=3, num_layers=2, text_dim=40, freq_dim=32)
    figures = module.plain_figures(config, options, torch.device("cpu"))
    assert len(compiled) == 1
    assert {name for name in figures if name.endswith("/ theirs")} == {
        "plain Wan: forward / theirs",
        "plain Wan, not compiled: forward / theirs",
    }


def test_full_size_targets_follow_device(benchmark, monkeypatch):
    module = benchmark("full_size")
    figures = {"plain Wan: forward / theirs": 1.2, "step: doctor off by": 0.1}
    options = argparse.Namespace(frames=81)
    anywhere = {"plain Wan: forward / theirs", "step: doctor off by", "everything, s"}
    assert module.targets(figures, options, torch.device("cpu")).keys() == anywhere
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "NVIDIA H100")
    shares = {"tracking: share of a step", "correspondence: share of a step"}
    assert module.targets(figures, options, torch.device("cuda")).keys() == anywhere | shares
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "NVIDIA H200")
    assert module.targets(figures, options, torch.device("cuda"))["step, s"] == ("<=", 8.5)


def test_transformers_agree_in_small_comparison(benchmark, capsys, monkeypatch, peer):
    module = benchmark("dit", "--small", "--rounds", "1")
    monkeypatch.setattr(
        module, "in_fresh_process", lambda whose, dtype, _: module.memory_mib(*module.SMALL, whose, dtype)
    )
    assert module.main() == 0
    figures = json.loads(capsys.readouterr().out.splitlines()[-1])["figures"]
    assert figures["float32: largest difference"] < 2e-5
    assert 0 < figures["bfloat16: error of ours"] < 0.05
    assert figures["bfloat16: peak of ours, MiB"] >= 0


def test_comparison_names_missing_package(benchmark, capsys, monkeypatch):
    module = benchmark("dit", "--small")
    monkeypatch.setattr(module.peer_diffsynth.importlib.util, "find_spec", lambda _: None)
    assert module.main() == 2
    assert "pip install -e '.[wan]'" in capsys.readouterr().err
