"""Loading holds one copy of a model, not two: private memory of a process is watched while it loads."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]


@pytest.mark.slow
def test_loading_holds_one_copy():
    done = subprocess.run(
        [sys.executable, str(ROOT / "benchmarks/weights.py"), "--small"],
        env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    line = json.loads(done.stdout.splitlines()[-1])
    assert line["met"], line
    assert line["figures"]["model, MiB"] > 90
    assert line["figures"]["widened to float32: private / model"] > 0.8  # one copy is seen
