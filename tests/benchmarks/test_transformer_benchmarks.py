import importlib
import json
import sys
from pathlib import Path

import pytest
import torch

FOLDER = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture
def benchmark(monkeypatch):
    """A function that imports a benchmark under a name of its own, with its neighbours importable."""
    monkeypatch.syspath_prepend(str(FOLDER))
    threads = torch.get_num_threads()

    def load(name, *arguments):
        spec = importlib.util.spec_from_file_location(f"{name}_benchmark", FOLDER / f"{name}.py")
        module = importlib.util.module_from_spec(spec)
        monkeypatch.setitem(sys.modules, f"{name}_benchmark", module)
        spec.loader.exec_module(module)
        monkeypatch.setattr(sys, "argv", [f"{name}.py", *arguments])
        return module

    yield load
    torch.set_num_threads(threads)


@pytest.mark.parametrize("preset", ["recammaster_1.3b", "redirector_1.3b"])
def test_a_small_full_size_run_does_all_parts(benchmark, capsys, monkeypatch, preset):
    module = benchmark("full_size", "--small", "--preset", preset)
    monkeypatch.setattr(module.peer_diffsynth, "why_missing", lambda: "left out")
    assert module.main() == 0
    out = capsys.readouterr().out.splitlines()
    assert out[0] == f"{preset}, cpu, attention by cpu, eager"
    assert out[1] == "no comparison: left out"
    figures = json.loads(out[-1])["figures"]
    assert figures["tokens"] == 2 * 2 * 2 * 3
    assert figures["step, s"] > 0
    assert 0 < figures["trained, millions"] < figures["parameters, millions"]


def test_the_comparison_says_what_it_needs(benchmark, capsys, monkeypatch):
    module = benchmark("dit", "--small")
    monkeypatch.setattr(module.peer_diffsynth.importlib.util, "find_spec", lambda _: None)
    assert module.main() == 2
    assert "pip install 'torch>=2.6,<2.14' diffsynth==2.1.12" in capsys.readouterr().err
