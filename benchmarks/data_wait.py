"""`python benchmarks/data_wait.py`: how long tiny training waits for data, and what a step spends its time on.

Trains `configs/tiny.yaml` for some steps on a small bank of its own (rendered first, not counted).
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path

from bench import report

ROOT = Path(__file__).parents[1]
STEPS, WARMUP = 60, 20


def main() -> int:
    with tempfile.TemporaryDirectory() as folder:
        command = [
            sys.executable, ROOT / "mvtrack/train.py", "--config", ROOT / "configs/tiny.yaml",
            f"data.banks=[{{root: {folder}/bank, num_scenes: 64, prerender: 64}}]",
            f"train.steps={STEPS}", "train.log_every=20", "train.save_every=1000000", "train.validate_every=1000000",
            f"train.run_dir={folder}/run", "train.validate_clips=1",
        ]  # fmt: skip
        subprocess.run(list(map(str, command)), check=True, stderr=subprocess.DEVNULL)
        lines = [json.loads(line) for line in Path(folder, "run/metrics.jsonl").read_text().splitlines()]
    rows = [line for line in lines if "time/step_s" in line and line["step"] > WARMUP]
    figures = {
        "share of a step spent waiting for data": sum(r["time/data_wait_share"] for r in rows) / len(rows),
        "step, s": sum(r["time/step_s"] for r in rows) / len(rows),
    }
    return report(figures, {"share of a step spent waiting for data": ("<=", 0.05)})


if __name__ == "__main__":
    sys.exit(main())
