import importlib
import json
import sys
from pathlib import Path

import torch

FOLDER = Path(__file__).resolve().parents[2] / "benchmarks"


def test_correlation_benchmark_reports_every_figure(monkeypatch, capsys):
    monkeypatch.syspath_prepend(str(FOLDER))
    spec = importlib.util.spec_from_file_location("correlation_benchmark", FOLDER / "correlation.py")
    benchmark = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "correlation_benchmark", benchmark)
    spec.loader.exec_module(benchmark)
    monkeypatch.setattr(sys, "argv", ["correlation.py", "--small"])
    threads = torch.get_num_threads()
    try:
        assert benchmark.main() == 0
    finally:
        torch.set_num_threads(threads)
    line = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert line["met"] is True
    assert 0 < line["figures"]["largest difference from the peer's volumes, millionths"] < 20
    assert line["figures"]["level 0, peer / ours"] > 0
    assert line["figures"]["bfloat16, largest difference / largest volume"] < 0.02
