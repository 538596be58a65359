"""Each benchmark in small: it runs, and what it compares agrees."""

import importlib.util
import json
from functools import partial

import pytest

from mvtrack.models.decoder.wan import WanAligner
from mvtrack.models.diffsynth_parts import diffsynth_module


def line_of(module, capsys) -> dict:
    """The last line of a benchmark that meets its targets."""
    assert module.main() == 0
    line = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert line.keys() == {"figures", "targets", "met"}
    assert line["targets"].keys() <= line["figures"].keys()
    return line


def test_analysis_benchmark_measures_tiny_model(benchmark, capsys):
    assert line_of(benchmark("analysis", "--small"), capsys)["figures"]["tiny model, s"] > 0


def test_reshoot_benchmark_measures_a_process(benchmark, capsys):
    figures = line_of(benchmark("reshoot_720p", "--small"), capsys)["figures"]
    assert figures["processor time, s"] > 0
    assert 0.1 < figures["peak memory, GiB"] < 4


@pytest.mark.slow
def test_studio_benchmark_loses_nothing_in_a_kill(benchmark, capsys):
    pytest.importorskip("uvicorn", reason="the studio needs uvicorn: pip install -e '.[web]'")
    figures = line_of(benchmark("studio", "--small"), capsys)["figures"]
    assert figures["jobs accepted"] >= 1
    assert figures["lost"] == figures["problems"] == 0


def test_correspondence_benchmark_losses_agree(benchmark, capsys):
    figures = line_of(benchmark("correspondence", "--small"), capsys)["figures"]
    assert figures["11 queries, difference of the losses"] < 1e-5
    assert figures["5 queries, difference of the losses"] < 1e-5


def test_joint_step_benchmark_compares_losses(benchmark, capsys):
    figures = line_of(benchmark("joint_step", "--small"), capsys)["figures"]
    assert figures["smoke: both, s"] > 0
    adds = figures["smoke: tracking / plain"] - 1
    assert figures["smoke: tracking adds, s"] == pytest.approx(adds * figures["smoke: plain, s"], rel=0.02, abs=1e-3)


@pytest.mark.slow
def test_few_steps_benchmark_compares_a_student_with_itself(benchmark, capsys):
    """The student is the teacher where none is named: the same pictures at the same steps and noise."""
    figures = line_of(benchmark("few_steps", "--small"), capsys)["figures"]
    for score in ("PSNR, dB", "co-visible PSNR, dB", "gradient energy", "PSNR to the teacher's whole video, dB"):
        assert figures[f"student, 4: {score}"] == figures[f"teacher, 4: {score}"] != figures[f"student, 1: {score}"]


@pytest.mark.slow
def test_step_cache_benchmark_counts_passes(benchmark, capsys):
    figures = line_of(benchmark("step_cache", "--small"), capsys)["figures"]
    assert figures["all steps: passes"] == 4
    assert 1 <= figures["0.05: fewer passes"] <= figures["0.4: fewer passes"] <= 2


def test_source_cache_benchmark_counts_half_the_operations(benchmark, capsys):
    figures = line_of(benchmark("source_cache", "--small", "--rounds", "1"), capsys)["figures"]
    assert figures["81 frames, joint, TFLOP"] == pytest.approx(961 + 9.3, rel=2e-3)  # Wan's own, and our rays
    assert figures["81 frames, cached, TFLOP"] == pytest.approx((961 + 9.3) / 2, rel=2e-3)
    assert figures["cached, s"] > 0


@pytest.mark.slow
def test_quantization_benchmark_finds_small_errors(benchmark, capsys):
    pytest.importorskip("torchao", reason="torchao is not installed: pip install -e '.[bits]'")
    figures = line_of(benchmark("quantization", "--small"), capsys)["figures"]
    for kind in ("int8", "fp8", "int8_dynamic"):
        errors = [value for name, value in figures.items() if name.startswith(f"{kind}: error of block")]
        assert len(errors) == 6
        assert 0 < min(errors) <= max(errors) < 0.1
        assert 0.5 < figures[f"{kind}: bytes / bfloat16's"] < 0.6


@pytest.mark.slow
def test_correlation_benchmark_volumes_agree(benchmark, capsys):
    line = line_of(benchmark("correlation", "--small"), capsys)
    assert line["met"] is True
    assert 0 < line["figures"]["largest difference from the peer's volumes, millionths"] < 20
    assert line["figures"]["level 0, peer / ours"] > 0
    assert line["figures"]["bfloat16, largest difference / largest volume"] < 0.02


@pytest.mark.skipif(not importlib.util.find_spec("diffsynth"), reason="diffsynth is not installed")
@pytest.mark.slow
def test_decoder_benchmark_compares_time_and_memory(benchmark, capsys, monkeypatch):
    module = benchmark("decoder", "--small", "--rounds", "1")
    network = diffsynth_module("wan_video_vae").VideoVAE_
    monkeypatch.setattr(module, "empty_wan_network", lambda channels: network(dim=4, z_dim=channels))
    monkeypatch.setattr(module, "WanAligner", partial(WanAligner, 4))
    fresh = {"codec": {"peak": 100.0, "seconds": 2.0}, "aligned": {"peak": 150.0, "seconds": 3.0}}
    monkeypatch.setattr(module, "in_fresh_process", lambda name, options: fresh[name])
    figures = line_of(module, capsys)["figures"]
    assert figures["time / codec"] == pytest.approx(figures["aligned: s"] / figures["codec: s"], rel=1e-2)
    assert figures["memory / codec"] == 1.5


def test_preparation_benchmark_reads_what_decord_reads(benchmark, capsys):
    figures = line_of(benchmark("prepare", "--small"), capsys)["figures"]
    assert figures["ours, s"] > 0
