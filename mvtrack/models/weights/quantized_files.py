"""Weights of fewer bits on disk, read as what they stand for: GGUF files, and 8-bit floats with a scale beside them.

GGUF is ComfyUI-GGUF's way to write Wan's parts: names are the official ones, shapes of more than two axes stand in the
metadata. A tensor is dequantised when it is read, so that one at a time takes memory.
"""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mvtrack.models.weights.stored import Stored

GGUF_SUFFIX = ".gguf"
_SHAPE_KEY = "comfy.gguf.orig_shape."
_SCALE, _MARK = ".scale_weight", "scaled_fp8"  # of ComfyUI's scaled 8-bit floats; the mark is an empty tensor


def open_gguf(path: Path) -> dict[str, Stored]:
    """Tensors of a GGUF file: plain floats in their own type, quantised ones as float32.

    Raises ValueError without the package gguf, and for a file that is damaged or cut off; reading a tensor raises it
    for a quantisation that the package does not know.
    """
    try:
        import gguf
    except ImportError as error:
        raise ValueError(f"{path} needs the package gguf: pip install -e '.[bits]'") from error
    try:
        reader = gguf.GGUFReader(path)
        shapes = {
            key.removeprefix(_SHAPE_KEY): tuple(map(int, field.contents()))
            for key, field in reader.fields.items()
            if key.startswith(_SHAPE_KEY)
        }
    except (ValueError, IndexError, KeyError, OverflowError) as error:
        raise ValueError(f"{path} is not a whole GGUF file ({error}); download or copy it again") from error
    plain = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
    tensors = {}
    for tensor in reader.tensors:
        shape = shapes.get(tensor.name, tuple(reversed(tensor.shape.tolist())))
        dtype = plain.get(tensor.tensor_type.name, torch.float32)
        tensors[tensor.name] = Stored(shape, dtype, _reader(path, tensor, shape, dtype))
    return tensors


def _reader(path: Path, tensor: Any, shape: tuple[int, ...], dtype: torch.dtype) -> Callable[[], Tensor]:
    def read() -> Tensor:
        import gguf

        try:
            values = gguf.dequantize(tensor.data, tensor.tensor_type)
        except NotImplementedError as error:
            kind = tensor.tensor_type.name
            raise ValueError(
                f"{path} holds {tensor.name} as {kind}, which cannot be read: use Q8_0 or a K type"
            ) from error
        return torch.from_numpy(values.astype(np.float32)).reshape(shape).to(dtype)  # a copy: the file stays as it is

    return read


def with_scales_applied(tensors: dict[str, Stored]) -> dict[str, Stored]:
    """8-bit floats as the values they stand for: times the scale beside them as float32, else as bfloat16, exactly."""
    found = {}
    for name, stored in tensors.items():
        scale = tensors.get(name.removesuffix(".weight") + _SCALE) if name.endswith(".weight") else None
        if name == _MARK or name.endswith(_SCALE):
            continue
        if stored.dtype == torch.float8_e4m3fn and scale is None:
            stored = replace(stored, dtype=torch.bfloat16, read=lambda eight=stored: eight.read().bfloat16())
        elif scale is not None:
            read = lambda eight=stored, scale=scale: eight.read().float() * scale.read().float()  # noqa: E731
            stored = replace(stored, dtype=torch.float32, read=read)
        found[name] = stored
    return found
