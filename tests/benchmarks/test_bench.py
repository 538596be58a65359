"""What benchmarks share, on a GPU that stands in for one: the order of its calls is what counts."""

import pytest
import torch


@pytest.fixture
def bench(benchmark):
    return benchmark("bench")


def test_gpu_clock_waits_and_peak_counts_allocations(bench, monkeypatch):
    calls = []
    memory = {"held": 5 * 2**20, "peak": 9 * 2**20}
    monkeypatch.setattr(torch.cuda, "synchronize", lambda device: calls.append("synchronize"))
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda device: calls.append("reset"))
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: memory["held"])
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda device: memory["peak"])
    assert bench.peak_mib(lambda: calls.append("work"), "cuda") == 4
    assert calls == ["synchronize", "reset", "work", "synchronize"]
    calls.clear()
    bench.timed_by_turns({"one": lambda: calls.append("work")}, rounds=1, clock=bench.clock_of("cuda"))
    assert calls == ["work", "synchronize", "work", "synchronize"]


def test_cpu_clock_and_resident_memory(bench):
    assert bench.clock_of("cpu")() > 0
    freed = [bytearray(100_000) for _ in range(1000)]  # glibc keeps what is freed beneath a block that lives
    living = bytearray(2**16)
    del freed
    assert bench.peak_mib(lambda: bytearray(64 * 2**20), "cpu") > 50
    del living
