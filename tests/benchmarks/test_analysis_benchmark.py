import json
import runpy
import sys
from pathlib import Path

import pytest
import torch

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


def test_analysis_benchmark_runs_small(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["analysis.py", "--small"])
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    threads = torch.get_num_threads()
    with pytest.raises(SystemExit) as end:
        runpy.run_path(str(BENCHMARKS / "analysis.py"), run_name="__main__")
    torch.set_num_threads(threads)
    assert end.value.code == 0
    line = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert set(line) == {"figures", "targets", "met"}
    assert line["targets"].keys() <= line["figures"].keys()
    assert line["figures"]["tiny model, s"] > 0
