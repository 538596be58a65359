"""Tensors out of a training state that holds more than tensors, as DeepSpeed's does, without running any of its code.

A pickle names classes and functions to call. Here only those that rebuild tensors are real; every other name stands for
an inert object that takes what it is given and does nothing.
"""

import pickle
import zipfile
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from mvtrack.models.weights.checkpoint import Checkpoint
from mvtrack.models.weights.stored import Stored

_REAL = {
    ("collections", "OrderedDict"): OrderedDict,
    ("torch", "Size"): torch.Size,
    ("torch._utils", "_rebuild_tensor_v2"): torch._utils._rebuild_tensor_v2,
    ("torch._utils", "_rebuild_parameter"): torch._utils._rebuild_parameter,
}


class _Inert:
    """Whatever it stands for: called, filled or restored, it does nothing."""

    def __new__(cls, *_args: object, **_kwargs: object) -> "_Inert":
        return super().__new__(cls)

    def __init__(self, *_args: object, **_kwargs: object) -> None: ...

    def __call__(self, *_args: object, **_kwargs: object) -> "_Inert":
        return self

    def __setstate__(self, _state: object) -> None: ...

    def __setitem__(self, _key: object, _value: object) -> None: ...

    def append(self, _item: object) -> None: ...

    def extend(self, _items: object) -> None: ...


class _InertUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if module == "torch" and isinstance(getattr(torch, name, None), torch.dtype):
            return getattr(torch, name)
        return _REAL.get((module, name), _Inert)


def open_training_state(path: Path, key: str = "module") -> Checkpoint:
    """The named tensors that a training state holds under a key.

    Raises ValueError for a file that is none, and for one of the format before 2020, which is not read here.
    """
    if not path.is_file():
        raise ValueError(f"training state {path} does not exist")
    with path.open("rb") as file:
        if file.read(2) != b"PK":
            raise ValueError(f"{path} is not a zipped PyTorch file: save it again with torch 1.6 or later")
    try:
        with zipfile.ZipFile(path) as file:
            is_script = any(name.endswith("constants.pkl") for name in file.namelist())
    except zipfile.BadZipFile as error:
        raise ValueError(f"{path} is damaged or no training state ({error}): download or copy it again") from error
    if is_script:  # which torch.load would hand to another reader
        raise ValueError(f"{path} is a TorchScript program, not a training state: save the state dict")
    reader = SimpleNamespace(Unpickler=_InertUnpickler, load=pickle.load, __name__="inert")
    try:
        state = torch.load(path, map_location="cpu", pickle_module=reader, weights_only=False, mmap=True)
    except (RuntimeError, EOFError, OSError, pickle.UnpicklingError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} is damaged or no training state ({error}): download or copy it again") from error
    found = state.get(key) if isinstance(state, Mapping) else None
    tensors = {n: x for n, x in found.items() if isinstance(x, Tensor)} if isinstance(found, Mapping) else {}
    if not tensors:
        raise ValueError(f"{path} holds no tensors under {key!r}: give DeepSpeed's mp_rank_00_model_states.pt")
    return Checkpoint(path, {name: Stored(tuple(x.shape), x.dtype, lambda x=x: x) for name, x in tensors.items()})
