import subprocess
import sys

import pytest
import torch

from mvtrack.inference import machine


def test_a_containers_limit_counts(tmp_path, monkeypatch):
    cpu = torch.device("cpu")
    monkeypatch.setattr(machine, "_CGROUP", tmp_path)
    assert machine.free_gib(cpu) > 0  # no control group
    (tmp_path / "memory.max").write_text(f"{3 * 2**30}\n")
    (tmp_path / "memory.current").write_text(f"{int(2.75 * 2**30)}\n")
    (tmp_path / "memory.stat").write_text(f"anon 5\ninactive_file {2**28}\n")
    assert machine.free_gib(cpu) == 0.5
    (tmp_path / "memory.max").write_text("max\n")
    assert machine.free_gib(cpu) != 0.5


def test_known_gpus_are_told_by_a_part_of_the_name():
    assert machine.gpu_peak_flops("NVIDIA H100 80GB HBM3") == 989e12
    assert machine.gpu_peak_flops("Voodoo") is None
    assert machine.gpu_peak_flops("geforce rtx 3090") == 71e12
    free = {name: machine.gpu_memory_gib(name) for name in ("A100", "NVIDIA A100-SXM4-40GB", "H100 NVL 94GB", "B200")}
    assert free == {"A100": 79, "NVIDIA A100-SXM4-40GB": 39, "H100 NVL 94GB": 93, "B200": 178}  # less the context
    assert machine.gpu_memory_gib("Voodoo") is None
    assert (machine.gpu_memory_gib("Voodoo 48GB"), machine.gpu_memory_gib("Voodoo:7.5")) == (47, 6.5)
    assert machine.peak_gib(torch.device("cpu")) > 0.05


HOLES = """
import sys
from pathlib import Path
import torch
from mvtrack.inference.machine import return_freed_memory
def held():
    line = next(x for x in Path("/proc/self/status").read_text().splitlines() if x.startswith("VmData"))
    return int(line.split()[1]) / 1024
if sys.argv[1] == "returned":
    return_freed_memory()
torch.ones(30 * 2**20, dtype=torch.uint8)  # freed, it teaches glibc to keep such blocks
before, kept = held(), []
for _ in range(20):
    block = torch.ones(8 * 2**20, dtype=torch.uint8)
    kept.append((block, torch.ones(2**18)))  # 1 MiB, kept
small = [pin for _, pin in kept]
del kept, block
print(held() - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.slow
def test_freed_blocks_go_back_to_the_system():
    """160 MiB of blocks with 1 MiB between each two; left alone, the C library keeps them."""
    runs = {
        way: subprocess.run([sys.executable, "-c", HOLES, way], check=True, capture_output=True, text=True)
        for way in ("returned", "left")
    }
    mib = {way: float(run.stdout) for way, run in runs.items()}
    assert mib["returned"] < 30 < 150 < mib["left"]  # the small ones are 20; address space, which nobody reclaims
