"""What runs there are on disk, how far each came, and how well it does."""

import json
from dataclasses import dataclass
from pathlib import Path

from mvtrack.training.checkpoint import checkpoints
from mvtrack.training.run_dir import is_running


@dataclass(frozen=True)
class RunSummary:
    name: str
    status: str  # running, finished, stopped
    step: int
    steps: int
    loss: float | None
    psnr_db: float | None  # best validation
    attempts: int
    started: str
    commit: str


def summarise(run_dir: Path, root: Path) -> RunSummary:
    """Read one run's folder. Damaged lines, as a killed run leaves them, are passed over."""
    attempts, metrics = _lines(run_dir / "attempts.jsonl"), _lines(run_dir / "metrics.jsonl")
    steps = attempts[-1]["config"]["train"]["steps"] if attempts else 0
    step = max((row["step"] for row in metrics), default=0)
    scores = [row["validation/psnr_db"] for row in metrics if "validation/psnr_db" in row]
    losses = [row["loss/total"] for row in metrics if "loss/total" in row]
    saved = checkpoints(run_dir / "checkpoints")
    if is_running(run_dir):
        status = "running"
    else:
        status = "finished" if saved and step >= steps else "stopped"
    git = attempts[0].get("git") if attempts else None
    return RunSummary(
        str(run_dir.relative_to(root)), status, step, steps, losses[-1] if losses else None, max(scores, default=None),
        len(attempts), attempts[0]["time"][:16] if attempts else "?", git["commit"][:8] if git else "?",
    )  # fmt: skip


def table(root: Path) -> str:
    """One row per run below a folder, newest last. Raises ValueError when the folder does not exist."""
    if not root.is_dir():
        raise ValueError(f"no folder {root}: give the folder that train.run_dir lies in")
    rows = [summarise(path.parent, root) for path in root.rglob("attempts.jsonl")]
    if not rows:
        return f"no runs below {root}"
    rows.sort(key=lambda row: row.started)
    head = ("run", "status", "step", "loss", "best dB", "attempts", "started", "commit")
    body = []
    for r in rows:
        scores = f"{r.step}/{r.steps}", _number(r.loss), _number(r.psnr_db)
        body.append((r.name, r.status, *scores, str(r.attempts), r.started, r.commit))
    widths = [max(len(row[i]) for row in [head, *body]) for i in range(len(head))]
    return "\n".join(
        "  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip() for row in [head, *body]
    )


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _lines(path: Path) -> list[dict]:
    found = []
    for line in path.read_text().splitlines() if path.exists() else []:
        try:
            found.append(json.loads(line))
        except json.JSONDecodeError:
            continue
    return found
