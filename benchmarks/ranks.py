"""`python benchmarks/ranks.py`: 1, 2 and 4 CPU ranks at every ZeRO stage do the same 20 steps."""

import json
import subprocess
import sys
import tempfile
from pathlib import Path

from bench import report

ROOT = Path(__file__).parents[1]
STEPS = 20


def main() -> int:
    with tempfile.TemporaryDirectory() as folder:
        reference = losses(Path(folder), ranks=1, stage=0)
        figures = {}
        for ranks in (1, 2, 4):
            for stage in (0, 1, 2, 3):
                found = losses(Path(folder), ranks, stage)
                difference = max(abs(a - b) for a, b in zip(found, reference, strict=True))
                figures[f"{ranks} ranks, stage {stage}: largest loss difference"] = difference
    worst = {"largest loss difference": max(figures.values())}
    sys.stdout.write(json.dumps(figures, indent=1) + "\n")
    return report(worst, {"largest loss difference": ("<=", 1e-5)})


def losses(folder: Path, ranks: int, stage: int) -> list[float]:
    """Total losses of every step of one run."""
    run_dir = folder / f"{ranks}-{stage}-{len(list(folder.iterdir()))}"
    command = [
        Path(sys.executable).with_name("mvtrack"), "train", "--ranks", ranks, "--config", ROOT / "configs/smoke.yaml",
        f"train.steps={STEPS}", f"train.zero_stage={stage}", "train.log_every=1", "train.validate_every=1000000",
        f"train.run_dir={run_dir}",
        f"data.banks=[{{root: {folder}/bank, size: [16, 24], num_scenes: 8, num_frames: 5}}]",
    ]  # fmt: skip
    subprocess.run(list(map(str, command)), check=True, capture_output=True)
    rows = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    return [row["loss/total"] for row in rows if "loss/total" in row]


if __name__ == "__main__":
    sys.exit(main())
