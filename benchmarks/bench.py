"""What benchmarks share: timing by turns, and the closing JSON line."""

import gc
import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch


def timed_by_turns(
    functions: dict[str, Callable[[], object]], rounds: int = 5, clock: Callable[[], float] = time.perf_counter
) -> dict[str, float]:
    """Median seconds of each function. They take turns, so that a drifting machine hits all alike.

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
    return {name: statistics.median(values) for name, values in seconds.items()}


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
    gc.collect()
    if device != "cpu":
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        held = torch.cuda.memory_allocated(device)
        work()
        torch.cuda.synchronize(device)
        return (torch.cuda.max_memory_allocated(device) - held) / 2**20
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts again from here
    before = _status_mib("VmRSS")
    work()
    return _status_mib("VmHWM") - before


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
