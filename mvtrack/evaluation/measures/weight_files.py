"""Weights that metrics need, as they lie in one folder that the user fills; nothing is downloaded or replaced."""

import os
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import torch

from mvtrack.files.cache import sha256_once
from mvtrack.models.weights.registry import WeightsEntry, problem_with, registry

VARIABLE = "MVTRACK_WEIGHTS"


def default_weights() -> Path | None:
    """The folder that the environment names."""
    return Path(os.environ[VARIABLE]) if os.environ.get(VARIABLE) else None


@dataclass(frozen=True)
class WeightFile:
    """One entry of the registry, looked for by its file's name in a folder (None: no folder was given)."""

    entry: WeightsEntry
    folder: Path | None

    @staticmethod
    def of(name: str, folder: Path | None) -> "WeightFile":
        return WeightFile(registry()[name], folder)

    @property
    def path(self) -> Path | None:
        """Where it is; None where it is not."""
        if self.folder is None:
            return None
        path = self.folder / Path(self.entry.file).name
        return path if path.is_file() else None

    @property
    def sha256(self) -> str:
        """Of the file that is there, for settings; "missing" where none is."""
        return "missing" if self.path is None else sha256_once(self.path)

    def missing(self) -> str | None:
        """What to fetch from where and where to put it, or that the file is another one; None when it is there."""
        name, path = Path(self.entry.file).name, self.path
        if path is None:
            place = self.folder or f"the folder that the settings name as weights, or ${VARIABLE}"
            return f"{name}: put {self.entry.source}/{name} into {place}"
        stat = path.stat()
        return _problem(path, self.entry, stat.st_size, stat.st_mtime_ns)


@lru_cache(maxsize=64)
def _problem(path: Path, entry: WeightsEntry, size: int, time_ns: int) -> str | None:
    return problem_with(path, entry)


def network_device() -> torch.device:
    """Where metrics run their networks: the GPU if there is one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")
