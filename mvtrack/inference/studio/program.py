"""A program that the studio starts: its lines as they come, its end with the server's, and its end on request."""

import asyncio
import ctypes
import os
import re
import signal
import sys
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

_LIBC = ctypes.CDLL(None)
_DIE_WITH_PARENT = 1  # prctl(PR_SET_PDEATHSIG)
_NICE = 10  # so that pages are answered while it works
_ENDS = re.compile(rb"[\r\n]+")
_PIECE = 1 << 14
_LONGEST_LINE = 1 << 16


class Program:
    """A subprocess in a process group of its own. Make it by `start`."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    @staticmethod
    async def start(arguments: Sequence[str], folder: Path) -> "Program":
        """`python -m ARGUMENTS` in a folder, with nothing to read; what it prints to either stream are its lines."""
        return Program(
            await asyncio.create_subprocess_exec(
                sys.executable, "-m", *arguments, cwd=folder, stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT, start_new_session=True,
                preexec_fn=_settle,
            )
        )  # fmt: skip

    async def lines(self) -> AsyncIterator[str]:
        """Parts between newlines and carriage returns, until it ends. Very long ones are cut."""
        rest = b""
        while piece := await self._process.stdout.read(_PIECE):
            *whole, rest = _ENDS.split(rest + piece)
            for line in whole:
                if line:
                    yield line.decode(errors="replace")
            rest = rest[:_LONGEST_LINE]
        if rest:
            yield rest.decode(errors="replace")

    async def wait(self) -> int:
        """Its exit code."""
        return await self._process.wait()

    async def close(self) -> None:
        """End it where it has not ended, and wait until it has."""
        self.stop()
        await self._process.wait()

    def stop(self) -> None:
        """End it and all that it started."""
        if self._process.returncode is None:
            try:
                os.killpg(self._process.pid, signal.SIGKILL)
            except ProcessLookupError:
                return


def _settle() -> None:
    os.nice(_NICE)
    if sys.platform == "linux":
        _LIBC.prctl(_DIE_WITH_PARENT, signal.SIGKILL)
