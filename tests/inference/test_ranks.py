"""Processes that share the passes of one video, over gloo: the same result, no byte more than foretold, clear ends."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from mvtrack.config.model import SamplingConfig
from mvtrack.config.placement import Placement
from mvtrack.config.presets import preset
from mvtrack.inference import rank_worker
from mvtrack.inference.device import placed_config
from mvtrack.inference.ranks import check_ranks
from mvtrack.inference.sampler import SamplerOptions, denoise
from mvtrack.models.conditioning import Conditioning
from mvtrack.models.dit import WanDiT

SCRIPT = Path(__file__).with_name("ranks_run.py")


def run(count: int, what: str) -> subprocess.CompletedProcess:
    command = [sys.executable, str(SCRIPT), str(count), what]
    return subprocess.run(command, capture_output=True, text=True, timeout=600)


@pytest.mark.parametrize("count", [2, pytest.param(3, marks=pytest.mark.slow), pytest.param(4, marks=pytest.mark.slow)])
def test_processes_together_make_the_same_video(count):
    """2: tokens, or guidance side by side; 3: tokens, guidance in turn; 4: with guidance two by two. 4 does not divide
    six heads, so that it takes guidance."""
    done = run(count, "same")
    assert done.returncode == 0, done.stderr[-3000:]
    figures = json.loads(done.stdout.splitlines()[-1])
    differences = {name: value for name, value in figures.items() if ", guidance" in name}
    assert len(differences) == {2: 8, 3: 4, 4: 2}[count]
    assert figures.get("rounded", 0.0) < 0.02 * figures["plain, scale"]
    assert max(differences.values()) < 1e-5
    if count < 4:
        assert figures["sent"] == figures["foretold"] > 0
    else:
        assert "share 6 heads only by twos" in figures["without guidance"]


def test_processes_make_windows_side_by_side():
    """Two of five, twice, and the last alone, with a step cache, which passes that are shared cannot have."""
    done = run(2, "windows")
    assert done.returncode == 0, done.stderr[-3000:]
    figures = json.loads(done.stdout.splitlines()[-1])
    assert figures["frames"] < 1e-5
    assert figures["latents"] < 1e-4
    assert figures["spread"] > 0.1
    assert figures["steps"] == [20, 20]


def test_a_killed_process_ends_all_with_a_message():
    done = run(2, "killed")
    assert done.returncode == 1
    assert "process 1 of the 2 that make this video was ended by SIGKILL" in done.stderr


def test_another_process_does_without_a_compiler_as_the_first_does(small_model, monkeypatch):
    asked, codec = [], small_model.codec.state_dict()
    told = (small_model.config, torch.float32, small_model.dit.attention, True, codec, False)
    monkeypatch.setattr(rank_worker, "received", lambda device: told)
    monkeypatch.setattr(rank_worker.dist, "broadcast", lambda tensor, src: None)
    monkeypatch.setattr(WanDiT, "compile_blocks", lambda dit, or_not=False: asked.append(or_not))
    rank_worker._copy(torch.device("cpu"))
    assert asked == [True]


def test_numbers_that_do_not_divide_are_refused():
    full = preset("recammaster_1.3b")  # 12 heads
    for count in (1, 2, 3, 4, 6, 8, 12, 24):
        check_ranks(full, count)
    for count in (5, 7, 9, 16):
        with pytest.raises(ValueError, match="use one of 1, 2, 3, 4, 6, 8, 12, 24"):
            check_ranks(full, count)
    with pytest.raises(ValueError, match="share 3 heads: use one of 1, 3$"):
        check_ranks(
            replace(full, dit=replace(full.dit, num_heads=3, text_dim=0), text=None, sampling=SamplingConfig()), 2
        )
    with pytest.raises(ValueError, match="use one of"):
        placed_config(full, Placement("cpu", gpus=5))
    placed_config(full, Placement("cpu", gpus=5, share="windows"))
    with pytest.raises(ValueError, match="--share windows is for a video on several --gpus"):
        placed_config(full, Placement("cpu", share="windows"))
    with pytest.raises(ValueError, match="leave out --offload"):
        Placement("cpu", gpus=2, offload="blocks")
    with pytest.raises(ValueError, match="sees 0 GPUs|is built without CUDA|with --gpus 99"):
        _ = Placement("cuda", gpus=99).torch_device


def test_a_step_cache_is_refused(small_model):
    model, sample = replace(small_model, passes=SimpleNamespace(run=lambda *_: None)), SamplerOptions(5, cache=0.1)
    with pytest.raises(ValueError, match="leave out --cache, or --gpus and --cuda-graphs"):
        denoise(model, torch.zeros(1, 1, 2, 12, 6, 8), lambda x: x, Conditioning(), sample)
