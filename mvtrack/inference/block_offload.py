"""Blocks of a transformer that rest in the CPU's memory: each comes to the device while the one before it works."""

from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor

import torch
from accelerate.hooks import ModelHook, add_hook_to_module
from torch import Tensor, nn


def offload(blocks: nn.ModuleList, device: torch.device, dtype: torch.dtype) -> None:
    """Make blocks of one shape come and go, in `dtype`; any order of calls is right, ascending order is fast.

    For a GPU the weights are converted and pinned here and copied on a stream of their own. On a CPU they stay as they
    lie, pages of a file maybe, and a thread reads and converts them when their turn comes.
    """
    coming = _Coming([dict(block.named_parameters()) for block in blocks], device, dtype)
    for number, block in enumerate(blocks):
        add_hook_to_module(block, _Hook(coming, number))
        coming.leave(block)


class _Hook(ModelHook):
    def __init__(self, coming: "_Coming", number: int) -> None:
        self.coming, self.number = coming, number

    def pre_forward(self, module: nn.Module, *args: object, **kwargs: object) -> tuple[tuple, dict]:
        self.coming.arrive(module, self.number)
        return args, kwargs

    def post_forward(self, module: nn.Module, output: object) -> object:
        self.coming.leave(module)
        return output


class _Coming:
    """Two places on the device: for the block at work, and for the next one, which is copied meanwhile."""

    def __init__(self, blocks: list[Mapping[str, nn.Parameter]], device: torch.device, dtype: torch.dtype) -> None:
        self.stream = torch.cuda.Stream(device) if device.type == "cuda" else None
        self.resting = [{name: self._rest(p.data, dtype) for name, p in block.items()} for block in blocks]
        self.places = [
            {name: torch.empty(p.shape, dtype=dtype, device=device) for name, p in blocks[0].items()} for _ in range(2)
        ]
        if self.stream is not None:
            self.stream.wait_stream(torch.cuda.current_stream(device))
        self.left = [self._event(), self._event()]  # when the last block that was there had run
        self.reader = ThreadPoolExecutor(1, "next-block") if self.stream is None else None
        self.at_work = 0  # which place
        self.next: tuple[int, Future | torch.cuda.Event | None] | None = None  # a block's number, and when it is there

    def arrive(self, block: nn.Module, number: int) -> None:
        """The block's weights are in its parameters, and those of the next one are on their way."""
        if self.next is None or self.next[0] != number:
            self._send(number)
        ready = self.next[1]
        if self.stream is None:
            ready.result()
        else:
            torch.cuda.current_stream(self.stream.device).wait_event(ready)
        self.at_work = 1 - self.at_work
        for name, parameter in block.named_parameters():
            parameter.data = self.places[self.at_work][name]
        self._send((number + 1) % len(self.resting))

    def leave(self, block: nn.Module) -> None:
        """Nothing but shapes and precision stays."""
        for name, parameter in block.named_parameters():
            like = self.places[0][name]
            parameter.data = like.new_empty(()).expand(like.shape)
        if self.stream is not None:
            self.left[self.at_work].record(torch.cuda.current_stream(self.stream.device))

    def _send(self, number: int) -> None:
        """Start to copy a block to the place where none is at work; a copy that is under way there ends first."""
        place = 1 - self.at_work
        if self.stream is None:
            self.next = number, self.reader.submit(_copy, self.resting[number], self.places[place])
            return
        with torch.cuda.stream(self.stream):
            self.stream.wait_event(self.left[place])
            _copy(self.resting[number], self.places[place])
            ready = torch.cuda.Event()
            ready.record()
        self.next = number, ready

    def _rest(self, weight: Tensor, dtype: torch.dtype) -> Tensor:
        return weight if self.stream is None else weight.to("cpu", dtype).pin_memory()

    def _event(self) -> "torch.cuda.Event | None":
        return None if self.stream is None else torch.cuda.Event()


def _copy(weights: Mapping[str, Tensor], place: Mapping[str, Tensor]) -> None:
    for name, weight in weights.items():
        place[name].copy_(weight, non_blocking=True)
