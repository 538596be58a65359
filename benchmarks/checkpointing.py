"""`python benchmarks/checkpointing.py`: a save at tiny size: its time against a step, its memory against training."""

import json
import subprocess
import sys
import tempfile
from pathlib import Path

from bench import report

ROOT = Path(__file__).parents[1]
STEPS = 24


def main() -> int:
    with tempfile.TemporaryDirectory() as folder:
        plain = run(Path(folder), "plain", save_every=10**6)
        saving = run(Path(folder), "saving", save_every=1)
    figures = {
        "step, s": plain["step_s"],
        "step with a save, s": saving["step_s"],
        "a save, in steps": saving["step_s"] / plain["step_s"] - 1,
        "peak memory with saves / without": saving["peak_gib"] / plain["peak_gib"],
    }
    return report(figures, {"a save, in steps": ("<=", 1.0), "peak memory with saves / without": ("<=", 1.3)})


def run(folder: Path, name: str, save_every: int) -> dict[str, float]:
    """Median step time (saves included) and peak memory of the last steps of a tiny training."""
    command = [
        sys.executable, ROOT / "mvtrack/train.py", "--config", ROOT / "configs/tiny.yaml",
        f"data.banks=[{{root: {folder}/bank, num_scenes: 64, prerender: 64}}]", f"train.run_dir={folder / name}",
        f"train.steps={STEPS + 1}", f"train.stop_after={STEPS}", f"train.save_every={save_every}", "train.log_every=1",
        "train.validate_every=1000000", "train.validate_clips=1", "train.compile=false",
    ]  # fmt: skip
    subprocess.run(list(map(str, command)), check=True, capture_output=True)
    rows = [json.loads(line) for line in (folder / name / "metrics.jsonl").read_text().splitlines()]
    rows = [row for row in rows if "time/step_s" in row][4:-1]  # without warm-up and the last step's validation
    times = sorted(b["elapsed_s"] - a["elapsed_s"] for a, b in zip(rows, rows[1:], strict=False))
    return {"step_s": times[len(times) // 2], "peak_gib": rows[-1]["memory/peak_gib"]}


if __name__ == "__main__":
    sys.exit(main())
