"""`mvtrack/train.py` as people start it, in a process of its own."""

import json
import subprocess
import sys
from pathlib import Path

TRAIN = Path(__file__).parents[1] / "mvtrack/train.py"


def last_metrics(config: Path, *arguments: str) -> dict[str, float]:
    """Train in the config's folder, to its `run`: the last value of every metric."""
    command = [sys.executable, str(TRAIN), "--config", str(config), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, cwd=config.parent, timeout=900)
    assert done.returncode == 0, done.stderr[-3000:]
    rows = [json.loads(line) for line in (config.parent / "run/metrics.jsonl").read_text().splitlines()]
    return {name: value for row in rows for name, value in row.items()}
