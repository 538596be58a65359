import pytest
import torch

from mvtrack.config.errors import run_command


def fail(error: Exception) -> None:
    raise error


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.\nmore"),
        RuntimeError("CUDA error: out of memory"),
        RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory: you tried 9 bytes"),
        MemoryError(),
    ],
)
def test_running_out_of_memory_is_one_line(capsys, error):
    assert run_command(lambda: fail(error), "mvtrack reshoot", less_memory="try --tiled") == 2
    said = capsys.readouterr().err
    assert said.startswith("mvtrack reshoot: memory ran out (")
    assert said.endswith("): try --tiled\n")
    assert said.count("\n") == 1
    with pytest.raises(type(error)):
        run_command(lambda: fail(error), "mvtrack reshoot", debug=True)


def test_what_is_really_asked_of_the_cpu(capsys):
    assert run_command(lambda: torch.empty(2**60), "mvtrack reshoot") == 2
    assert "memory ran out" in capsys.readouterr().err


def test_other_errors_of_the_program_are_not_hidden():
    with pytest.raises(RuntimeError, match="shapes differ"):
        run_command(lambda: fail(RuntimeError("shapes differ")), "mvtrack reshoot")
