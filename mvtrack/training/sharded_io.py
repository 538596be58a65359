"""Tensors on disk in flat pieces: every rank writes its own file, and any range of any tensor can be read back."""

import os
from collections.abc import Iterator
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor


def file_name(rank: int) -> str:
    return f"rank_{rank:05d}.safetensors"


def piece_key(kind: str, name: str, start: int) -> str:
    """Key of the piece of `kind/name` that begins at a flat index."""
    return f"{kind}/{name}@{start}"


def write_pieces(path: Path, tensors: dict[str, Tensor]) -> None:
    """Write one rank's file and wait until it is on disk. Keys are piece keys, or plain names of whole tensors."""
    save_file({key: tensor.detach().cpu().contiguous() for key, tensor in tensors.items()}, path)
    sync(path)


def sync(path: Path) -> None:
    """Wait until a file or folder is on disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


class PieceReader:
    """Reads a folder of piece files, memory-mapped. files: expected size in bytes of each.

    Raises ValueError that names the file when one is missing, truncated or damaged.
    """

    def __init__(self, folder: Path, files: dict[str, int], shapes: dict[str, list[int]]) -> None:
        self.folder, self.shapes = folder, shapes
        self.files = [self._open(name, size) for name, size in files.items()]
        self._index: dict[str, list[tuple[int, int, int, str]]] = {}
        for number, file in enumerate(self.files):
            for key in file.keys():  # noqa: SIM118
                name, _, start = key.rpartition("@")
                if name:
                    count = file.get_slice(key).get_shape()[0]
                    self._index.setdefault(name, []).append((int(start), count, number, key))

    def _open(self, name: str, size: int):
        path = self.folder / name
        if not path.is_file():
            raise ValueError(f"checkpoint {self.folder} is incomplete: {name} is missing; resume from an older one")
        if path.stat().st_size != size:
            raise ValueError(
                f"checkpoint file {path} has {path.stat().st_size} bytes, expected {size}: it is truncated or was "
                f"changed; resume from an older checkpoint"
            )
        try:
            return safe_open(path, "pt")
        except SafetensorError as error:
            raise ValueError(f"checkpoint file {path} is damaged ({error}); resume from an older one") from error

    def read(self, kind: str, name: str, start: int = 0, stop: int | None = None) -> Tensor:
        """Elements [start, stop) of a flattened tensor, as float32."""
        stop = torch.Size(self.shapes[name]).numel() if stop is None else stop
        out, covered = torch.empty(stop - start), 0
        for piece_start, count, number, key in self._index.get(f"{kind}/{name}", []):
            low, high = max(start, piece_start), min(stop, piece_start + count)
            if low < high:
                part = self.files[number].get_slice(key)[low - piece_start : high - piece_start]
                out[low - start : high - start] = part
                covered += high - low
        if covered != stop - start:
            raise ValueError(f"checkpoint {self.folder} holds no {kind} for elements {start}..{stop} of {name}")
        return out

    def whole(self, kind: str) -> Iterator[tuple[str, Tensor]]:
        """Every parameter, whole, one at a time."""
        for name, shape in self.shapes.items():
            yield name, self.read(kind, name).view(shape)

    def named(self, prefix: str) -> dict[str, Tensor]:
        """Tensors that were saved whole under a prefix, without the prefix."""
        found: dict[str, Tensor] = {}
        for file in self.files:
            for key in file.keys():  # noqa: SIM118
                if key.startswith(prefix + "/") and "@" not in key:
                    found.setdefault(key.removeprefix(prefix + "/"), file.get_tensor(key))
        return found
