"""Faults for tests: values that are not finite, disks that are full, and death at a chosen file operation.

Nothing here is known to the library; functions are patched from outside, in the process that is to suffer.
"""

import errno
import os
import resource
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch


class _PoisonGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, grad):
        return grad * float("nan")


@contextmanager
def not_finite(what: str, step: int) -> Iterator[None]:
    """Make the loss, or only the gradient, of this process's `step`-th training step NaN."""
    import mvtrack.training.loop as loop
    from mvtrack.training.objective import Objective

    losses, take_step, current = Objective.__call__, loop._step, {}

    def watched(active_run, *args, **kwargs):
        current["step"] = active_run.progress.step
        return take_step(active_run, *args, **kwargs)

    def poisoned(*args):
        parts = losses(*args)
        if current.get("step") == step:
            if what == "loss":
                return parts | {"flow": parts["flow"] * float("nan"), "total": parts["total"] * float("nan")}
            return parts | {"total": _PoisonGradient.apply(parts["total"])}
        return parts

    Objective.__call__, loop._step = poisoned, watched
    try:
        yield
    finally:
        Objective.__call__, loop._step = losses, take_step


@contextmanager
def full_disk(after_saves: int) -> Iterator[None]:
    """Let writing a checkpoint's tensors fail from the given save on, leaving half a file."""
    import mvtrack.training.checkpoint as checkpoint

    write, count = checkpoint.write_pieces, [0]

    def failing(path: Path, tensors: dict) -> None:
        count[0] += 1
        if count[0] > after_saves:
            path.write_bytes(b"half")
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        write(path, tensors)

    checkpoint.write_pieces = failing
    try:
        yield
    finally:
        checkpoint.write_pieces = write


@contextmanager
def small_files(limit: int) -> Iterator[None]:
    """Let the kernel refuse to write a checkpoint's tensors beyond a size, as a full disk or a quota does."""
    import mvtrack.training.checkpoint as checkpoint

    write, before = checkpoint.write_pieces, resource.getrlimit(resource.RLIMIT_FSIZE)

    def limited(path: Path, tensors: dict) -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
        try:
            write(path, tensors)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)

    checkpoint.write_pieces = limited
    try:
        yield
    finally:
        checkpoint.write_pieces = write


def die_at_file_operation(number: int, below: str) -> None:
    """Kill this process at its `number`-th (from 1) write, sync or rename under folders named `below`.

    Tensor files are left half written: the kill comes after half of the bytes.
    """
    import mvtrack.training.sharded_io as pieces

    count = [0]

    def due(path) -> bool:
        if below in Path(path).parts:
            count[0] += 1
        return count[0] == number and below in Path(path).parts

    def die() -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    save_file, replace, fsync, write_text = pieces.save_file, os.replace, os.fsync, Path.write_text

    def dying_save(tensors, path, *args, **kwargs):
        save_file(tensors, path, *args, **kwargs)
        if due(path):
            os.truncate(path, os.path.getsize(path) // 2)
            die()

    def dying_replace(source, target, *args, **kwargs):
        if due(source):
            die()
        replace(source, target, *args, **kwargs)
        if due(target):
            die()

    def dying_fsync(handle):
        if due(os.readlink(f"/proc/self/fd/{handle}")):
            die()
        fsync(handle)

    def dying_write_text(self, text, *args, **kwargs):
        if due(self):
            write_text(self, text[: len(text) // 2], *args, **kwargs)
            die()
        return write_text(self, text, *args, **kwargs)

    pieces.save_file, os.replace, os.fsync, Path.write_text = dying_save, dying_replace, dying_fsync, dying_write_text
