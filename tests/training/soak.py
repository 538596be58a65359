"""`python tests/training/soak.py [--kills 60]`: kill a training over and over; it must end as if nothing had happened.

A third of the kills hit a chosen file operation of a save (half-written files, before and after each sync and rename),
the others come at random moments. After each, the newest checkpoint must be whole; in the end losses and weights
must equal those of a run that was left alone. The last line is one JSON object.
"""

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

from mvtrack.training.checkpoint import CheckpointReader, checkpoints

HERE = Path(__file__).parent
STEPS, SAVE_EVERY, OPERATIONS = 1600, 5, 12
SETTINGS = [
    f"train.steps={STEPS}", "train.batch_size=1", "train.log_every=1", f"train.save_every={SAVE_EVERY}",
    "train.validate_every=1000000",
]  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=60)
    options = parser.parse_args()
    draw, at_saves, lost = random.Random(0), 0, 0
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        for kill in range(options.kills):
            before = newest(root / "killed")
            operation = draw.randint(1, OPERATIONS) if kill % 3 == 0 else None
            process = start(root, "killed", operation)
            at_saves += operation is not None
            if operation is None:
                wait_and_kill(root, process, draw.uniform(0.0, 1.2))
            process.wait()
            after = newest(root / "killed")
            lost += (before or 0) > (after or 0) or not whole(root / "killed")
            sys.stderr.write(f"kill {kill + 1}: newest checkpoint {before} -> {after}\n")
        for name in ("killed", "alone"):
            assert start(root, name, None).wait() == 0
        (losses, weights), (true_losses, true_weights) = (read(root / name) for name in ("killed", "alone"))
        loss_difference = max(abs(a - b) for a, b in zip(losses, true_losses, strict=True))
        weight_difference = max(float((weights[n] - true_weights[n]).abs().max()) for n in true_weights)
    figures = {"kills": options.kills, "kills at file operations of a save": at_saves, "checkpoints lost": lost,
               "largest loss difference": loss_difference, "largest weight difference": weight_difference}  # fmt: skip
    met = lost == 0 and loss_difference <= 1e-7 and weight_difference <= 1e-7
    targets = {"checkpoints lost": "== 0", "largest loss difference": "<= 1e-7", "largest weight difference": "<= 1e-7"}
    sys.stdout.write(json.dumps({"figures": figures, "targets": targets, "met": met}) + "\n")
    return 0 if met else 1


def start(root: Path, name: str, operation: int | None) -> subprocess.Popen:
    """Start or go on with a run; `operation`: die at that file operation."""
    project = HERE.parents[1]
    script = HERE / "dying_train.py" if operation else project / "mvtrack/train.py"
    command = [sys.executable, script, "--config", project / "configs/smoke.yaml", "--resume", "auto"]
    command += [*SETTINGS, f"train.run_dir={root / name}"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "DIE_AT": str(operation)}
    output = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    return subprocess.Popen(list(map(str, command)), cwd=root, env=environment, **output)


def wait_and_kill(root: Path, process: subprocess.Popen, seconds: float) -> None:
    """Kill some time after the run has done its first step."""
    beat = root / "killed/heartbeat/rank_00000"
    seen = beat.stat().st_mtime_ns if beat.exists() else 0
    while process.poll() is None and (not beat.exists() or beat.stat().st_mtime_ns == seen):
        time.sleep(0.02)
    time.sleep(seconds)
    process.send_signal(signal.SIGKILL)


def newest(run_dir: Path) -> int | None:
    found = checkpoints(run_dir / "checkpoints") if run_dir.exists() else []
    return int(found[-1].name[5:]) if found else None


def whole(run_dir: Path) -> bool:
    """The newest checkpoint can be read in full."""
    found = checkpoints(run_dir / "checkpoints") if run_dir.exists() else []
    if found:
        reader = CheckpointReader(found[-1])
        return all(torch.isfinite(t).all() for kind in ("weight", "ema") for _, t in reader.weights(kind))
    return True


def read(run_dir: Path) -> tuple[list[float], dict[str, torch.Tensor]]:
    rows = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    final = checkpoints(run_dir / "checkpoints")[-1]
    return [r["loss/total"] for r in rows if "loss/total" in r], dict(CheckpointReader(final).weights())


if __name__ == "__main__":
    sys.exit(main())
