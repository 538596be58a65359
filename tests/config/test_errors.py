import subprocess
import sys

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


@pytest.mark.parametrize("code", [0, 2])
def test_a_program_that_used_ray_ends_with_its_own_code(tmp_path, code):
    """Though Ray crashes when the interpreter ends; what was printed is there."""
    crash = "import atexit, os, signal; atexit.register(os.kill, os.getpid(), signal.SIGSEGV)"
    (tmp_path / "ray.py").write_text(crash)
    program = f"import ray; from mvtrack.config.errors import leave; print('done', end=''); leave({code})"
    run = [sys.executable, "-c", f"import sys; sys.path.insert(0, {str(tmp_path)!r}); {program}"]
    done = subprocess.run(run, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (code, "done", "")
    without = [sys.executable, "-c", f"from mvtrack.config.errors import leave; leave({code})"]
    assert subprocess.run(without).returncode == code
