"""A run's folder: locked while it runs, and telling how each of its attempts was started."""

import fcntl
import json
import os
import platform
import shutil
import socket
import subprocess
import sys
import time
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

import torch
import yaml

from mvtrack.config.training import TrainingConfig
from mvtrack.config.tree import to_tree

_PACKAGES = ("mvtrack", "torch", "deepspeed", "numpy", "safetensors", "diffsynth", "transformers")


@contextmanager
def locked(run_dir: Path):
    """Hold the folder for this process; yields the folders that did not exist before, the run's own first.

    Raises ValueError when another run has it.
    """
    made = [folder for folder in (run_dir, *run_dir.parents) if not folder.exists()]
    try:
        run_dir.mkdir(parents=True, exist_ok=True)
        (run_dir / ".lock").touch()
    except OSError as error:
        raise ValueError(f"cannot write to run directory {run_dir} ({error.strerror}): set train.run_dir") from error
    with (run_dir / ".lock").open("a+") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            lock.seek(0)
            raise ValueError(
                f"run directory {run_dir} is in use by {lock.read().strip() or 'another run'}: "
                f"wait for it, or set train.run_dir to another folder"
            ) from error
        lock.seek(0)
        lock.truncate()
        lock.write(f"process {os.getpid()} on {socket.gethostname()}")
        lock.flush()
        yield made


@contextmanager
def discarded_on_failure(made: list[Path]):
    """Remove these new folders, the run's own first, when what is done within fails: a run that never started."""
    try:
        yield
    except BaseException:
        if made:
            shutil.rmtree(made[0], ignore_errors=True)
        for parent in made[1:]:
            with suppress(OSError):  # something else was put there meanwhile
                parent.rmdir()
        raise


def is_running(run_dir: Path) -> bool:
    """Whether some process holds the folder's lock."""
    path = run_dir / ".lock"
    if not path.exists():
        return False
    with path.open("a+") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        return False


def record_attempt(run_dir: Path, config: TrainingConfig, first_step: int, world_size: int, attention: str) -> None:
    """Add a line to attempts.jsonl (when, from which step, command, code, environment), and the config beside it.

    attention: the kernel that was chosen.
    """
    line = {
        "time": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "first_step": first_step,
        "command": sys.argv,
        "world_size": world_size,
        "git": _git_state(),
        "python": platform.python_version(),
        "packages": {name: _version(name) for name in _PACKAGES},
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else platform.processor() or "cpu",
        "attention": attention,
        "config": to_tree(config),
    }
    with (run_dir / "attempts.jsonl").open("a") as file:
        file.write(json.dumps(line) + "\n")
    (run_dir / "config.yaml").write_text(yaml.safe_dump(to_tree(config), sort_keys=False))


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _git_state() -> dict[str, str] | None:
    """Commit of the code, and the diff against it when there is one."""
    root = Path(__file__).resolve().parents[2]

    def git(*arguments: str) -> str:
        done = subprocess.run(["git", *arguments], cwd=root, capture_output=True, text=True, timeout=20)
        return done.stdout.strip() if done.returncode == 0 else ""

    try:
        commit = git("rev-parse", "HEAD")
        return {"commit": commit, "diff": git("diff", "HEAD")} if commit else None
    except (OSError, subprocess.TimeoutExpired):
        return None


@dataclass
class Heartbeat:
    """One small file per rank with its last step, so that a hang can be told from a slow step, and by whom."""

    run_dir: Path
    rank: int

    def beat(self, step: int) -> None:
        path = self.run_dir / "heartbeat" / f"rank_{self.rank:05d}"
        path.parent.mkdir(exist_ok=True)
        path.write_text(f"{step} {time.time():.0f}")

    def report(self) -> str:
        """Every rank's last step and how long ago it was, slowest first."""
        rows = []
        for path in (self.run_dir / "heartbeat").glob("rank_*"):
            step, when = path.read_text().split()
            age = time.time() - float(when)
            rows.append((int(step), f"rank {int(path.name[5:])} was at step {step} {age:.0f} s ago"))
        return "; ".join(text for _, text in sorted(rows)[:4])
