"""What benchmarks share: timing by turns, and the closing JSON line."""

import ctypes
import gc
import json
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

# glibc with these gives freed blocks back at once, so that the peak of a process is that of what lives at the same time
FREED_AT_ONCE = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "0"}


def timed_by_turns(
    functions: dict[str, Callable[[], object]], rounds: int = 5, clock: Callable[[], float] = time.perf_counter
) -> dict[str, float]:
    """Median seconds of each function, see `seconds_by_turns`."""
    seconds = seconds_by_turns(functions, rounds, clock)
    return {name: statistics.median(values) for name, values in seconds.items()}


def seconds_by_turns(
    functions: dict[str, Callable[[], object]], rounds: int, clock: Callable[[], float]
) -> dict[str, list[float]]:
    """Seconds of each function in every round. They take turns, so that a drifting machine hits all alike.

    clock: time.process_time leaves out the turns of other programs; right for one thread only.
    """
    for function in functions.values():
        function()
    seconds = {name: [] for name in functions}
    for _ in range(rounds):
        for name, function in functions.items():
            began = clock()
            function()
            seconds[name].append(clock() - began)
    return seconds


def clock_of(device: str) -> Callable[[], float]:
    """For `timed_by_turns`: wall time; of a GPU when it has done all it was given."""
    if device == "cpu":
        return time.perf_counter

    def clock() -> float:
        torch.cuda.synchronize(device)
        return time.perf_counter()

    return clock


def peak_mib(work: Callable[[], object], device: str = "cpu") -> float:
    """Peak memory while `work` runs, less what was held before: allocated on a GPU, or resident in this process (Linux
    only)."""
    if device != "cpu":
        gc.collect()
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        held = torch.cuda.memory_allocated(device)
        work()
        torch.cuda.synchronize(device)
        return (torch.cuda.max_memory_allocated(device) - held) / 2**20
    _give_back()  # else a hole in the heap may serve `work`, and its memory go unseen
    _forget_the_peak()
    before = _status_mib("VmRSS")
    work()
    return _status_mib("VmHWM") - before


@dataclass(frozen=True)
class Call:
    """peak_gib: all that was held while it ran, of a GPU what tensors took."""

    seconds: float
    peak_gib: float


def called(work: Callable[[], object], device: torch.device) -> Call:
    """Time and memory of one call. Linux only."""
    on_gpu = device.type == "cuda"
    if on_gpu:
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
    else:
        _give_back()
        _forget_the_peak()
    began = time.perf_counter()
    work()
    if on_gpu:
        torch.cuda.synchronize()
    seconds = time.perf_counter() - began
    return Call(seconds, torch.cuda.max_memory_allocated() / 2**30 if on_gpu else _status_mib("VmHWM") / 1024)


def held_gib(device: torch.device) -> float:
    """What the process holds now, of a GPU what its tensors take."""
    _give_back()
    return torch.cuda.memory_allocated() / 2**30 if device.type == "cuda" else _status_mib("VmRSS") / 1024


def _give_back() -> None:
    """What is freed goes back to the system, so that it does not count as held."""
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc's
    if trim is not None:
        trim(0)


def _forget_the_peak() -> None:
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts again from here


def _status_mib(field: str) -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field)) / 1024


def report(figures: dict[str, float], targets: dict[str, tuple[str, float]]) -> int:
    """Print one JSON object as the last line: figures, targets, and whether all are met. Returns an exit code."""
    met = {
        name: figures[name] >= bound if op == ">=" else figures[name] <= bound for name, (op, bound) in targets.items()
    }
    line = {
        "figures": {name: float(f"{value:.4g}") for name, value in figures.items()},
        "targets": {name: f"{op} {bound}" for name, (op, bound) in targets.items()},
        "met": all(met.values()),
    }
    sys.stdout.write(json.dumps(line) + "\n")
    return 0 if line["met"] else 1
