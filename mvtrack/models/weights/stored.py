"""One tensor of a file, not read yet."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Stored:
    """dtype: of what `read` gives."""

    shape: tuple[int, ...]
    dtype: torch.dtype
    read: Callable[[], Tensor]
