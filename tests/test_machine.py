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
    assert machine.peak_gib(torch.device("cpu")) > 0.05
