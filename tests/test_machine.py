import torch

from mvtrack import machine


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
    assert machine.gpu_memory_gib("Voodoo 48GB") is None
    assert machine.peak_gib(torch.device("cpu")) > 0.05
