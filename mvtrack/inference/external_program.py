"""Programs of other environments (a pose estimator, a depth model, a metric): a folder with job.json in, arrays out.

What needs an environment of its own, or only a process of its own, works this way. A worker is a plain script that
imports nothing of the project, so the other environment needs no part of it.
"""

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from jaxtyping import Bool, UInt8

_SHOWN = 300  # characters of a program's last message


class WorkerError(ValueError):
    """Another program failed; the message says which one, and what it said last."""


@dataclass(frozen=True)
class ExternalProgram:
    """A worker script and the interpreter that can run it.

    script: called as `python script FOLDER ARGUMENTS`. package: the module that it needs. title: of the package, in
    messages. python: None where nobody named an interpreter. how: how to get and name one. threads: of its numeric
    libraries.
    """

    script: Path
    package: str
    title: str
    python: Path | str | None = sys.executable
    how: str = ""
    timeout_s: float = 6 * 3600.0
    threads: int | None = None

    def missing(self) -> str | None:
        """What has to be installed or named; None where the worker can run."""
        if self.python is None:
            return f"{self.title}: {self.how}"
        return None if has_module(self.python, self.package) else f"the package {self.package} in {self.python}"

    def identity(self) -> str | None:
        """What tells this package from others in a cache's key; None where it is not there."""
        return None if self.python is None else package_identity(self.python, self.package)

    def run(
        self, folder: Path, *arguments: str, job: dict | None = None, result: str | None = "result.npz"
    ) -> dict[str, np.ndarray]:
        """Run the worker on a folder and read the .npz file that it leaves there; result None: it leaves others.

        job: written to job.json where given. Raises WorkerError when the program fails, takes longer than `timeout_s`
        or leaves no result; ValueError when the interpreter does not exist.
        """
        if job is not None:
            (folder / "job.json").write_text(json.dumps(job))
        if result is not None:
            (folder / result).unlink(missing_ok=True)
        said = self._start([str(self.python), str(self.script), str(folder), *arguments])
        if result is None:
            return {}
        if not (folder / result).is_file():
            raise WorkerError(f"{self.script.name} left no {result}: {last_message(said)}")
        with np.load(folder / result, allow_pickle=False) as arrays:
            return dict(arrays)

    def _start(self, command: list[str]) -> str:
        """What the program wrote to its standard error."""
        environment = _foreign_environment()
        if self.threads is not None:
            environment |= {"OMP_NUM_THREADS": str(self.threads), "MKL_NUM_THREADS": str(self.threads)}
        try:
            done = subprocess.run(
                command, capture_output=True, text=True, errors="replace", timeout=self.timeout_s, env=environment
            )
        except FileNotFoundError as error:
            raise ValueError(f"the Python interpreter {self.python} does not exist") from error
        except PermissionError as error:
            raise ValueError(f"{self.python} is not a program that can be run") from error
        except subprocess.TimeoutExpired as error:
            raise WorkerError(f"{self.script.name} took longer than {self.timeout_s:g} s") from error
        if done.returncode != 0:
            said = last_message(done.stderr) or f"exit code {done.returncode}"
            raise WorkerError(f"{self.script.name} failed: {said}")
        return done.stderr


def write_frames(
    folder: Path, frames: UInt8[np.ndarray, "T H W 3"], ignore: Bool[np.ndarray, "T H W"] | None = None, first: int = 0
) -> None:
    """Write frames/00000.png ... and, where `ignore` is given, masks/00000.png.png, black where it is True.

    first: number of the first frame.
    """
    import cv2

    pictures = {f"frames/{i:05d}.png": frame[..., ::-1] for i, frame in enumerate(frames, first)}
    for i, mask in enumerate(() if ignore is None else ignore):
        pictures[f"masks/{i:05d}.png.png"] = np.where(mask, 0, 255).astype(np.uint8)
    for name, picture in pictures.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        if not cv2.imwrite(str(folder / name), np.ascontiguousarray(picture)):
            raise OSError(f"cannot write {folder / name}")


def last_message(text: str) -> str:
    """The last line of a program's messages that says something."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1][-_SHOWN:] if lines else ""


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


def package_identity(python: Path | str, module: str) -> str | None:
    """What tells a package in an interpreter's environment from others: its version, and a hash of its .py files,
    because research code carries one version for ever. None where it is not there. Looked up once."""
    return _ask(python, _IDENTITY, module)


def package_version(python: Path | str, package: str) -> str | None:
    """The version of a package in an interpreter's environment; None where either is not there. Looked up once."""
    return _ask(python, "import importlib.metadata, sys; print(importlib.metadata.version(sys.argv[1]))", package)


def has_module(python: Path | str, module: str) -> bool:
    """Whether an interpreter can import a module (it is looked for, not imported). Looked up once."""
    probe = "import importlib.util, sys; sys.exit(importlib.util.find_spec(sys.argv[1]) is None)"
    return _ask(python, probe, module) is not None


@lru_cache(maxsize=64)
def _ask(python: Path | str, program: str, argument: str) -> str | None:
    """What a program prints in another environment; None where it fails."""
    command = [str(python), "-c", program, argument]
    try:
        done = subprocess.run(command, capture_output=True, text=True, env=_foreign_environment())
    except OSError:
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def _foreign_environment() -> dict[str, str]:
    """The variables, without this environment's own PYTHONPATH."""
    return {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
