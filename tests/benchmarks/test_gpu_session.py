"""The script for a GPU, with benchmarks that say at once what is asked of them."""

import json
import os
import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).parents[2] / "benchmarks/gpu_session.sh"
STAND_IN = """#!/usr/bin/env bash
case "$1" in
    - | -c) exec {python} "$@" ;;
    -m) echo "17 passed" ;;
    */source_cache.py) echo "it broke" >&2; exit 3 ;;
    *) echo '{{"figures": {{"forward, s": 5}}, "met": true}}' ;;
esac
"""


def test_one_part_that_fails_leaves_the_others(tmp_path):
    (tmp_path / "python").write_text(STAND_IN.format(python=sys.executable))
    (tmp_path / "python").chmod(0o755)
    out = tmp_path / "deeper/session.json"
    env = os.environ | {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
    done = subprocess.run(["bash", str(SCRIPT), "--small", str(out)], capture_output=True, text=True, env=env)
    line = json.loads(done.stdout.splitlines()[-1])
    assert line["met"] is False
    others = ("tests", "full_size", "quantization", "correlation")
    assert line["parts_met"] == dict.fromkeys(others, True) | {"source_cache": False}
    parts = json.loads(out.read_text())["parts"]
    assert parts["source_cache"] == {
        "code": 3, "seconds": parts["source_cache"]["seconds"], "last_line": "", "errors": "it broke\n",
    }  # fmt: skip
    assert parts["full_size"]["last_line"]["figures"] == {"forward, s": 5}
    assert parts["tests"]["last_line"] == "17 passed"
