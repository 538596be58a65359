"""Named tensors on disk, whatever wrote them: opened without reading them, read one at a time.

Tensors of a safetensors file or of a zipped pickle are views into the mapped file: reading a model costs no memory
beyond the page cache, and writing into such a tensor copies its pages and leaves the file as it is.
"""

import json
import pickle
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from mvtrack.models.weights.quantized_files import GGUF_SUFFIX, open_gguf, with_scales_applied
from mvtrack.models.weights.stored import Stored

SAFETENSORS_SUFFIX = ".safetensors"
INDEX_SUFFIX = ".safetensors.index.json"
PICKLE_SUFFIXES = (".pth", ".pt", ".ckpt", ".bin")
WEIGHTS_SUFFIXES = (SAFETENSORS_SUFFIX, GGUF_SUFFIX, *PICKLE_SUFFIXES)
WRAPPERS = ("state_dict", "model_state", "module", "model")  # keys under which training code files a state dict
DTYPES = {
    "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16, "I64": torch.int64,
    "I32": torch.int32, "I16": torch.int16, "I8": torch.int8, "U8": torch.uint8, "BOOL": torch.bool,
    "F8_E4M3": torch.float8_e4m3fn,
}  # fmt: skip


@dataclass(frozen=True)
class Checkpoint:
    """Tensors by name. where: the file or folder, for messages. metadata: text that travels with the file."""

    where: Path
    tensors: dict[str, Stored]
    metadata: dict[str, str] = field(default_factory=dict)

    def read(self, name: str) -> Tensor:
        return self.tensors[name].read()

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        return {name: stored.shape for name, stored in self.tensors.items()}

    @property
    def common_dtype(self) -> torch.dtype:
        """The narrowest type that holds every tensor exactly."""
        dtypes = iter({stored.dtype for stored in self.tensors.values()})
        common = next(dtypes)
        for dtype in dtypes:
            common = torch.promote_types(common, dtype)
        return common

    def renamed(self, rename: Callable[[str], str]) -> "Checkpoint":
        """The same tensors under other names. Raises ValueError if two of them meet."""
        tensors: dict[str, Stored] = {}
        for name, stored in self.tensors.items():
            if rename(name) in tensors:
                raise ValueError(f"{self.where}: two tensors become {rename(name)!r}, {name!r} is one of them")
            tensors[rename(name)] = stored
        return Checkpoint(self.where, tensors, self.metadata)

    def without(self, names: Iterable[str]) -> "Checkpoint":
        left_out = set(names)
        tensors = {name: stored for name, stored in self.tensors.items() if name not in left_out}
        return Checkpoint(self.where, tensors, self.metadata)

    def overlaid(self, delta: "Checkpoint") -> "Checkpoint":
        """This checkpoint with the tensors of `delta` in place of its own and beside them."""
        for name, stored in delta.tensors.items():
            own = self.tensors.get(name)
            if own is not None and own.shape != stored.shape:
                raise ValueError(
                    f"{delta.where} does not fit {self.where}: {name} is {list(stored.shape)}, the base has "
                    f"{list(own.shape)}; give the base that it was trained on"
                )
        return Checkpoint(Path(f"{self.where} + {delta.where}"), self.tensors | delta.tensors, self.metadata)


def open_checkpoint(path: Path | str) -> Checkpoint:
    """Open a safetensors file, the index of a sharded one, a GGUF file, or a pickle of tensors.

    8-bit floats come as what they stand for, see quantized_files.py.
    Pickles are read with `weights_only`, so they cannot run code. Raises ValueError that names the file and the fix.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"weights file {path} does not exist")
    _refuse_placeholders(path)
    if path.name.endswith(INDEX_SUFFIX):
        return _open_shards(path)
    if path.suffix == SAFETENSORS_SUFFIX:
        tensors, metadata = _open_safetensors(path)
        return Checkpoint(path, with_scales_applied(tensors), metadata)
    if path.suffix == GGUF_SUFFIX:
        return Checkpoint(path, open_gguf(path))
    if path.suffix in PICKLE_SUFFIXES:
        return Checkpoint(path, _open_pickle(path))
    known = ", ".join((*WEIGHTS_SUFFIXES, INDEX_SUFFIX))
    raise ValueError(f"{path} has a name of no weights file; known endings: {known}")


def shard_names(index: Path) -> list[str]:
    """The files that an index names. Raises ValueError when it is no index."""
    try:
        return sorted(set(json.loads(index.read_text())["weight_map"].values()))
    except (json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{index} is not an index of safetensors shards; download it again") from error


def _refuse_placeholders(path: Path) -> None:
    """A file that only stands for the weights: empty, a git-lfs pointer, an error page."""
    with path.open("rb") as file:
        head = file.read(64)
    if not head:
        raise ValueError(f"{path} is empty: download it again")
    if head.startswith(b"version https://git-lfs"):
        raise ValueError(f"{path} is a git-lfs pointer, not the weights: run `git lfs pull` in its repository")
    if head.lstrip().lower().startswith((b"<!doctype", b"<html")):
        raise ValueError(f"{path} is a web page, not weights: download it again, logged in if it asks for that")


def _open_safetensors(path: Path) -> tuple[dict[str, Stored], dict[str, str]]:
    try:
        file = safe_open(path, "pt")
    except SafetensorError as error:
        raise ValueError(f"{path} is not a whole safetensors file ({error}); download or copy it again") from error
    tensors = {}
    for name in file.keys():  # noqa: SIM118
        part = file.get_slice(name)
        kind = part.get_dtype()
        if kind not in DTYPES:
            raise ValueError(f"{path} holds {name} as {kind}, which is not supported; use a float or bfloat16 version")
        tensors[name] = Stored(tuple(part.get_shape()), DTYPES[kind], lambda n=name: file.get_tensor(n))
    return tensors, file.metadata() or {}


def _open_shards(index: Path) -> Checkpoint:
    tensors: dict[str, Stored] = {}
    missing = [name for name in shard_names(index) if not (index.parent / name).is_file()]
    if missing:
        raise ValueError(
            f"{index} names {len(missing)} file(s) that are not there, {missing[0]} first: the download is not "
            "complete, run it again"
        )
    weight_map = json.loads(index.read_text())["weight_map"]
    for name in shard_names(index):
        found, _ = _open_safetensors(index.parent / name)
        lost = [key for key, file in weight_map.items() if file == name and key not in found]
        if lost:
            raise ValueError(f"{index.parent / name} lacks {lost[0]}, which {index.name} promises: download it again")
        tensors |= found
    return Checkpoint(index, with_scales_applied(tensors))


def _open_pickle(path: Path) -> dict[str, Stored]:
    state = _unpickle(path)
    for wrapper in WRAPPERS:
        if isinstance(state, dict) and isinstance(state.get(wrapper), dict):
            state = state[wrapper]
    tensors = {k: v for k, v in state.items() if isinstance(v, Tensor)} if isinstance(state, dict) else {}
    if not tensors:
        raise ValueError(f"{path} holds no named tensors: give the file with the model's state dict")
    others = sorted(str(name) for name in state.keys() - tensors.keys())
    if others:
        raise ValueError(f"{path} holds {others[0]!r} beside tensors ({len(others)} such): save the state dict alone")
    return {name: Stored(tuple(t.shape), t.dtype, lambda t=t: t) for name, t in tensors.items()}


def _unpickle(path: Path) -> object:
    with path.open("rb") as file:
        zipped = file.read(2) == b"PK"
    try:
        return torch.load(path, map_location="cpu", weights_only=True, mmap=zipped)
    except pickle.UnpicklingError as error:
        raise ValueError(
            f"{path} holds more than tensors, and reading it could run code, so it was not read: convert it to "
            "safetensors where you trust it"
        ) from error
    except (RuntimeError, EOFError, OSError) as error:
        raise ValueError(f"{path} is damaged or was cut off: download or copy it again") from error
