"""What the machine is: memory that is free, memory that was used, how fast its processors can be."""

import ctypes
import re
import resource
import sys
import time
from functools import cache
from pathlib import Path

import torch

# By the maker's data sheet: memory, and the dense peaks in bfloat16 and float32.
GPUS = {  # name: (GiB, TFLOP/s, TFLOP/s)
    "B200": (179, 2250.0, 75.0), "H200": (140, 989.0, 67.0), "H100": (80, 989.0, 67.0), "H800": (80, 989.0, 67.0),
    "A100": (80, 312.0, 19.5), "L40S": (48, 362.0, 91.6), "5090": (32, 209.0, 104.8), "4090": (24, 165.0, 82.6),
    "3090": (24, 71.0, 35.6),
}  # fmt: skip
CONTEXT_GIB = 1.0  # that driver, context and the code of kernels take of a GPU before anything is put there
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # malloc.h
_CGROUP = Path("/sys/fs/cgroup")


def gpu_peak_flops(name: str, dtype: torch.dtype = torch.bfloat16) -> float | None:
    """FLOP/s that a GPU could do at best, by a name that holds a known one; None when unknown."""
    known = known_gpu(name)
    return None if known is None else GPUS[known][1 if dtype == torch.bfloat16 else 2] * 1e12


def known_gpu(name: str) -> str | None:
    """The GPU of the table that a name means."""
    return next((known for known in GPUS if known.lower() in name.lower()), None)


def gpu_name(device: torch.device) -> str:
    """Of a CUDA device, as its driver says it."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


@cache
def cpu_flops(dtype: torch.dtype | None = None) -> float:
    """What this CPU's matrix products reach, FLOP/s, by a short measurement, once a process; None: in bfloat16 where
    that is fast."""
    if dtype is None:
        dtype = torch.bfloat16 if torch.backends.cpu.get_cpu_capability().startswith("AVX512") else torch.float32
    a, b = torch.ones(512, 1536, dtype=dtype), torch.ones(1536, 4096, dtype=dtype)
    a @ b
    began, rounds = time.perf_counter(), 4
    for _ in range(rounds):
        a @ b
    return 2 * a.shape[0] * b.numel() * rounds / (time.perf_counter() - began)


def gpu_memory_gib(name: str) -> float | None:
    """What a GPU has free when nothing runs; None when unknown. Any name that states it is believed: A100-SXM4-40GB,
    or one with its GiB after a colon, RTX 6000:48."""
    known, stated = known_gpu(name), re.search(r"(\d{2,3}) ?G[Bi]|:(\d{1,4}(?:\.\d+)?)$", name, re.IGNORECASE)
    if stated is None:
        return None if known is None else GPUS[known][0] - CONTEXT_GIB
    return float(stated[1] or stated[2]) - CONTEXT_GIB


def peak_gib(device: torch.device) -> float:
    """The most memory that was in use: the GPU allocator's, or the process's on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**30
    per_gib = 2**30 if sys.platform == "darwin" else 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / per_gib


def free_gib(device: torch.device) -> float | None:
    """Memory that can be had now, within the limits of a container; None where the system does not tell."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return (free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)) / 2**30
    meminfo = Path("/proc/meminfo")
    if not meminfo.exists():
        return None
    available = next(line for line in meminfo.read_text().splitlines() if line.startswith("MemAvailable"))
    return min([int(available.split()[1]) / 2**20, *_container_gib()])


def return_freed_memory(block_bytes: int = 4 * 2**20) -> None:
    """Let blocks of at least so many bytes go back to the system as soon as they are freed.

    glibc keeps blocks of up to 32 MiB in a heap whose holes torch's aligned requests cannot fill: training on a CPU
    took up to twice the memory that lived at the same time. Smaller blocks are kept, so that their pages are not mapped
    anew for every tensor. Other C libraries are left as they are.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, block_bytes)
        mallopt(_M_TRIM_THRESHOLD, 16 * block_bytes)


def _container_gib() -> list[float]:
    """What a control group leaves: its limit less what it holds that is no cache."""
    try:
        limit = (_CGROUP / "memory.max").read_text().strip()
        used = int((_CGROUP / "memory.current").read_text())
        stat = dict(line.split() for line in (_CGROUP / "memory.stat").read_text().splitlines())
    except (OSError, ValueError):
        return []
    return [] if limit == "max" else [(int(limit) - used + int(stat.get("inactive_file", 0))) / 2**30]
