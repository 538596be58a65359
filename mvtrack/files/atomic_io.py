"""Folders and files of results that appear whole or not at all."""

import fcntl
import os
import re
import shutil
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

_ASIDE = re.compile(r"\..+\.[0-9a-f]{32}")  # a name by `beside`
_OF_RESULTS = ("run.json", "frusta.png", "presets.png", "attention.json", "mvtrack_cameras.json")  # one in each


def beside(path: Path, suffix: str = "") -> Path:
    """A hidden name in the same folder, which no other process on any machine that shares it will choose.

    suffix: for programs that go by it; without one, no pattern for files such as `path` finds what a kill left there.
    """
    return path.with_name(f".{path.name}.{uuid.uuid4().hex}{suffix}")


def refuse_existing(out: Path, overwrite: bool, *inputs: Path | str | None) -> None:
    """Raises ValueError where there is something that may not be replaced: with `overwrite`, all but empty folders and
    results that hold none of the inputs."""
    if not os.path.lexists(out):
        return
    if out.is_symlink() or not out.is_dir():
        raise ValueError(f"{out} is there and is not a folder: choose another --out")
    if not overwrite:
        raise ValueError(f"output folder {out} exists already: choose another --out, or pass --overwrite")
    if any(out.iterdir()) and not any((out / name).is_file() for name in _OF_RESULTS):
        raise ValueError(f"output folder {out} is no result of mvtrack, so it is not deleted: choose another --out")
    for path in inputs:
        if path is not None and Path(path).resolve().is_relative_to(out.resolve()):
            raise ValueError(f"output folder {out} holds {path}, so it is not deleted: choose another --out")


@contextmanager
def new_folder(out: Path, overwrite: bool, *inputs: Path | str | None) -> Iterator[Path]:
    """A folder beside `out` to write into; it takes that name, and the place of a result that may be replaced, when the
    block ends well and goes when it fails. It keeps another name where `out` has become what `refuse_existing` says."""
    out.parent.mkdir(parents=True, exist_ok=True)
    aside = beside(out)
    try:
        aside.mkdir()
        yield aside
        try:
            refuse_existing(out, overwrite, *inputs)
        except ValueError as error:
            kept = out.with_name(f"{out.name}{aside.suffix}")
            os.replace(aside, kept)
            raise ValueError(f"{error}; what was made is in {kept}") from error
        if out.exists():
            shutil.rmtree(out)
        os.replace(aside, out)
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def write_aside(path: Path, write: Callable[[Path], object]) -> None:
    """Write a file beside its place and rename it, so that a reader never meets half of it."""
    aside = beside(path)
    try:
        write(aside)
        os.replace(aside, path)
    finally:
        aside.unlink(missing_ok=True)


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Wait for a lock file, and hold it: one process at a time, on machines whose shared folder has locks."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


@contextmanager
def shared_folder(root: Path) -> Iterator[None]:
    """Work in a folder beside others that do so. Who is alone first clears away what killed ones were writing."""
    root.mkdir(parents=True, exist_ok=True)
    with (root / ".in_use.lock").open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            pass
        else:
            for path in root.rglob(".*"):
                if _ASIDE.fullmatch(path.name) and path.is_file():
                    path.unlink(missing_ok=True)
        fcntl.flock(file, fcntl.LOCK_SH)
        yield
