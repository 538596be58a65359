"""torch.compile for functions that meet many sizes."""

import warnings
from collections.abc import Callable
from typing import Any

import torch

_GRAPHS = 512  # that a compiled function may have


def compiled(function: Callable[..., Any], or_not: bool = False) -> Callable[..., Any]:
    """The function, compiled for each size of its inputs. or_not: where the compiler fails, it runs as it is, with a
    warning.

    Sizes, flags and passes without gradients each make a graph. PyTorch would run what comes after the eighth
    uncompiled, without a word; here there may be `_GRAPHS`.
    """
    work, failed = torch.compile(function, dynamic=False), []

    def run(*arguments: object) -> Any:
        if failed:
            return function(*arguments)
        try:
            with torch._dynamo.config.patch(recompile_limit=_GRAPHS, accumulated_recompile_limit=_GRAPHS):
                return work(*arguments)
        except torch._dynamo.exc.TorchDynamoException as error:
            if not or_not:
                raise
            failed.append(error)
            reason = str(error).strip().splitlines()[0]
            warnings.warn(f"what was to be compiled runs as it is, for the compiler failed: {reason}", stacklevel=2)
            return function(*arguments)

    return run
