"""How much memory code takes, found by running it on tensors that have shapes and no storage.

What is counted is what lives at the same time, as PyTorch's GPU allocator counts it: no formula that could fall behind
the code. What kernels use inside themselves is not seen, but for convolutions on a CPU, which take as much as their
input and more; sizes of blocks are not rounded.
"""

import weakref
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class MemoryCounter(TorchDispatchMode):
    """While entered, counts the bytes of tensors that come and go. `peak` is the most at any time. on_cpu: also what
    PyTorch's convolutions take inside themselves there."""

    def __init__(self, on_cpu: bool = False) -> None:
        super().__init__()
        self.on_cpu = on_cpu
        self.live = self.peak = 0
        self._known: dict[int, weakref.ref] = {}

    def ignore(self, tensors: Iterable[Tensor]) -> None:
        """Leave out what is there already: weights, inputs."""
        for tensor in tensors:
            self._note(tensor, counts=False)

    def _note(self, tensor: Tensor, counts: bool = True) -> None:
        storage = tensor.untyped_storage()
        key, size = storage._cdata, storage.nbytes() if counts else 0
        if key in self._known:
            return

        def gone(_reference: weakref.ref) -> None:
            self.live -= size
            del self._known[key]

        self._known[key] = weakref.ref(storage, gone)
        self.live += size
        self.peak = max(self.peak, self.live)

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor):
                self._note(leaf)
        if self.on_cpu and function is torch.ops.aten.convolution.default:
            self.peak = max(self.peak, self.live + _convolution_bytes(*args[:2]))
        return result


def _convolution_bytes(x: Tensor, weight: Tensor) -> int:
    """Inside a convolution on a CPU, by measurement: its input in another layout, or every tap of a window that is one
    pixel wide and several frames long."""
    window = weight.shape[2:]
    if window.numel() == 1:
        return 0
    taps = window.numel() if len(window) == 3 and window[1:].numel() == 1 else 1
    return taps * x.numel() * x.element_size()


@contextmanager
def fake_tensors(on_cpu: bool = False) -> Iterator[MemoryCounter]:
    """While open, tensors are made without storage, and counted once the result is entered: `with counter: ...`."""
    with FakeTensorMode(allow_non_fake_inputs=True):
        yield MemoryCounter(on_cpu)


def allocate_fake(module: nn.Module, dtype: torch.dtype, keep: str = "tracking_head") -> nn.Module:
    """Parameters and buffers of a module on "meta" as CPU tensors without storage; call it inside `fake_tensors`.

    dtype: of the floating-point parameters. keep: the child that stays float32.
    """
    for name, part in module.named_modules():
        wanted = torch.float32 if name.split(".")[0] == keep else dtype
        for key, parameter in part._parameters.items():
            if parameter is not None:
                part._parameters[key] = nn.Parameter(torch.empty(parameter.shape, dtype=wanted))
        for key, buffer in part._buffers.items():
            if buffer is not None:
                part._buffers[key] = torch.empty(buffer.shape, dtype=buffer.dtype)
    return module
