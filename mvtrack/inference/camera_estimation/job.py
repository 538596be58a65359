"""Running another program on the frames of a video: a folder with pictures and a job.json in, .npz files out.

Estimators that need their own environment (or only their own process) all work this way. The workers in `workers/` are
plain scripts that import nothing of the project, so the other environment needs no part of it.
"""

import json
import os
import subprocess
import sys
from functools import lru_cache
from pathlib import Path

import numpy as np
from jaxtyping import Bool, UInt8

WORKERS = Path(__file__).parent / "workers"
_SHOWN = 300  # characters of another program's last words


class WorkerError(ValueError):
    """Another program failed; the message says which one, and what it said last."""


def write_frames(
    folder: Path, frames: UInt8[np.ndarray, "T H W 3"], ignore: Bool[np.ndarray, "T H W"] | None = None
) -> None:
    """Write frames/00000.png ... and, where `ignore` is given, masks/00000.png.png, black where it is True."""
    import cv2

    (folder / "frames").mkdir(parents=True, exist_ok=True)
    for index, frame in enumerate(frames):
        _write_png(cv2, folder / "frames" / f"{index:05d}.png", frame[..., ::-1])
    if ignore is not None:
        (folder / "masks").mkdir(exist_ok=True)
        for index, mask in enumerate(ignore):
            _write_png(cv2, folder / "masks" / f"{index:05d}.png.png", np.where(mask, 0, 255).astype(np.uint8))


def _write_png(cv2, path: Path, image: np.ndarray) -> None:
    if not cv2.imwrite(str(path), np.ascontiguousarray(image)):
        raise OSError(f"cannot write {path}")


def run_worker(
    script: str,
    folder: Path,
    *arguments: str,
    job: dict | None = None,
    result: str = "result.npz",
    python: Path | str = sys.executable,
    timeout_s: float = 3600.0,
    threads: int | None = None,
) -> dict[str, np.ndarray]:
    """Run workers/<script> on a job folder with a Python interpreter and read the .npz file that it leaves.

    Raises WorkerError when it leaves no result; else as `run_program`, which says what the arguments are.
    """
    (folder / result).unlink(missing_ok=True)
    errors = run_program(
        WORKERS / script, folder, *arguments, job=job, python=python, timeout_s=timeout_s, threads=threads
    )
    if not (folder / result).is_file():
        raise WorkerError(f"{script} left no {result}: {last_error_line(errors)}")
    with np.load(folder / result, allow_pickle=False) as arrays:
        return dict(arrays)


def run_program(
    script: Path,
    folder: Path,
    *arguments: str,
    job: dict | None = None,
    python: Path | str = sys.executable,
    timeout_s: float = 3600.0,
    threads: int | None = None,
) -> str:
    """Run a script on a job folder with a Python interpreter; returns what it wrote to its standard error.

    job: written to job.json where given. threads: of its numeric libraries. Raises WorkerError when the program fails
    or takes longer than `timeout_s`; ValueError when the interpreter does not exist.
    """
    if job is not None:
        (folder / "job.json").write_text(json.dumps(job))
    environment = dict(os.environ)
    environment.pop("PYTHONPATH", None)  # of this environment, not of the other
    if threads is not None:
        environment |= {"OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)}
    command = [str(python), str(script), str(folder), *arguments]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, errors="replace", timeout=timeout_s, env=environment
        )
    except FileNotFoundError as error:
        raise ValueError(f"the Python interpreter {python} does not exist") from error
    except PermissionError as error:
        raise ValueError(f"{python} is not a program that can be run") from error
    except subprocess.TimeoutExpired as error:
        raise WorkerError(f"{script.name} took longer than {timeout_s:g} s") from error
    if done.returncode != 0:
        raise WorkerError(f"{script.name} failed: {last_error_line(done.stderr) or f'exit code {done.returncode}'}")
    return done.stderr


def last_error_line(text: str) -> str:
    """The last line of a program's messages that says something."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1][-_SHOWN:] if lines else ""


@lru_cache(maxsize=32)
def package_version(python: Path | str, package: str) -> str | None:
    """The version of a package in an interpreter's environment; None where either is not there. Asked once."""
    probe = f"import importlib.metadata; print(importlib.metadata.version({package!r}))"
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    try:
        done = subprocess.run([str(python), "-c", probe], capture_output=True, text=True, env=environment)
    except OSError:
        return None
    return done.stdout.strip() if done.returncode == 0 else None


_IDENTITY = """
import hashlib, importlib.metadata, importlib.util, pathlib, sys
name = sys.argv[1]
spec = importlib.util.find_spec(name)
places = [pathlib.Path(p) for p in spec.submodule_search_locations or []]
files = sorted((p.relative_to(top).as_posix(), p) for top in places for p in top.rglob("*.py"))
files = files or [(name, pathlib.Path(spec.origin))]
digest = hashlib.sha256()
for shown, path in files:
    digest.update(f"{shown}\\n{hashlib.sha256(path.read_bytes()).hexdigest()}\\n".encode())
known = getattr(importlib.metadata, "packages_distributions", dict)().get(name)
version = importlib.metadata.version(known[0]) if known else "no version"
print(f"{version}, sources {digest.hexdigest()[:16]}")
"""


@lru_cache(maxsize=32)
def package_identity(python: Path | str, module: str) -> str | None:
    """What tells a package in an interpreter's environment from others: its version, and a hash of its .py files,
    because research code carries one version for ever. None where it is not there. Asked once."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    try:
        done = subprocess.run([str(python), "-c", _IDENTITY, module], capture_output=True, text=True, env=environment)
    except OSError:
        return None
    return done.stdout.strip() if done.returncode == 0 else None


@lru_cache(maxsize=32)
def has_module(python: Path | str, module: str) -> bool:
    """Whether an interpreter can import a module (it is looked for, not imported). Asked once."""
    probe = f"import importlib.util, sys; sys.exit(importlib.util.find_spec({module!r}) is None)"
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    try:
        return subprocess.run([str(python), "-c", probe], capture_output=True, env=environment).returncode == 0
    except OSError:
        return False
