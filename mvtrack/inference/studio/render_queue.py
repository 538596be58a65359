"""The queue of jobs: each is a command of this package in a process of its own, one after the other.

A job's folder holds log.txt with what the command said, and `result`, which appears whole or not at all. A server that
starts finds its queue as the last one left it: finished jobs stay, and one that was at work starts again.
"""

import asyncio
import re
import shlex
import shutil
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from mvtrack.inference.studio.limits import StudioLimits
from mvtrack.inference.studio.program import Program
from mvtrack.inference.studio.store import Entry, Store

WAITING, RUNNING, DONE, FAILED, CANCELLED = "waiting", "running", "done", "failed", "cancelled"
_MOST_STARTS = 5
_BAR = re.compile(r"^(?P<what>[^:|]*): +\d+%\|.*\| (?P<done>\d+)/(?P<all>\d+) \[(?P<time>[^\]]*)\]")
_LOG_BYTES = 1 << 20


class QueueFullError(ValueError):
    """No more jobs may wait."""


class RenderQueue:
    """Jobs of all sessions, in the order in which they came."""

    def __init__(self, store: Store, limits: StudioLimits) -> None:
        self.store, self.limits = store, limits
        self._programs: dict[str, Program] = {}
        self._more = asyncio.Event()
        for job in store.entries["jobs"].values():
            _recover(job)

    def add(self, owner: str, kind: str, arguments_for: Callable[[Path], list[str]], /, **about) -> Entry:
        """A job that waits. arguments_for: the command's, by the folder of the job. Raises QueueFullError, ValueError
        where the disk is full, and what `arguments_for` raises."""
        waiting = [job for job in self.store.entries["jobs"].values() if job.status.get("state") == WAITING]
        mine = sum(job.owner == owner for job in waiting)
        if len(waiting) >= self.limits.max_waiting or mine >= self.limits.max_waiting_each:
            raise QueueFullError(f"{mine} of your jobs and {len(waiting)} in all wait: try again when some are done")
        refuse_full_disk(self.store, self.limits)
        folder = self.store.new_folder("jobs")
        try:
            arguments = arguments_for(folder)
            job = self.store.add("jobs", folder, owner, kind=kind, arguments=arguments, **about)
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise
        job.update(state=WAITING, starts=0)
        self._more.set()
        return job

    def cancel(self, job: Entry) -> None:
        """End it, at work or waiting; a finished one stays as it is."""
        if job.status.get("state") in (WAITING, RUNNING):
            job.update(state=CANCELLED, finished=time.time())
        if program := self._programs.get(job.id):
            program.stop()

    def ahead(self, job: Entry) -> int | None:
        """Jobs before it that are not done; None where it does not wait."""
        if job.status.get("state") != WAITING:
            return None
        jobs = self.store.entries["jobs"].values()
        running = sum(other.status.get("state") == RUNNING for other in jobs)
        return running + sum(other.info["created"] < job.info["created"] for other in self._waiting())

    async def run(self) -> None:
        """Work until cancelled; what runs then ends, and starts again with the next server."""
        while True:
            job = min(self._waiting(), key=lambda job: job.info["created"], default=None)
            if job is None:
                self._more.clear()
                await self._more.wait()
            else:
                await self._do(job)

    def _waiting(self) -> list[Entry]:
        return [job for job in self.store.entries["jobs"].values() if job.status.get("state") == WAITING]

    async def _do(self, job: Entry) -> None:
        try:
            refuse_full_disk(self.store, self.limits)
            _clear_unfinished(job)
            starts = job.status["starts"] + 1
            job.update(state=RUNNING, started=time.time(), starts=starts, progress=0.0, doing="starting")
            program = await Program.start(["mvtrack", *job.info["arguments"]], job.folder)
        except (OSError, ValueError) as error:
            _fail(job, str(error))
            return
        self._programs[job.id] = program
        if job.status["state"] != RUNNING:  # cancelled while it started
            program.stop()
        code = None
        try:
            said = await _follow(program, job)
            code = await program.wait()
        except OSError as error:  # of the log: a full disk ends this job, not the queue
            said = f"its log cannot be written: {error.strerror or error}"
        finally:
            await program.close()
            del self._programs[job.id]
        if job.status["state"] != RUNNING:  # cancelled
            _clear_unfinished(job)
        elif code == 0 and result_of(job) is not None:
            job.update(state=DONE, progress=1.0, doing="", finished=time.time())
        else:
            _fail(job, said or f"the command ended with code {code}")


async def _follow(program: Program, job: Entry) -> str:
    """Write what a command says to the log, and its progress to the status. Returns its last line."""
    last, written = "", 0
    with (job.folder / "log.txt").open("w") as log:
        async for line in program.lines():
            if bar := _BAR.match(line):
                if job.status["state"] == RUNNING:
                    share = int(bar["done"]) / max(1, int(bar["all"]))
                    job.status |= {"progress": share, "doing": f"{bar['what']}: {bar['done']} of {bar['all']}"}
                continue
            last = line
            if written < _LOG_BYTES:
                written += log.write(line + "\n")
                log.flush()
    return last


def _fail(job: Entry, reason: str) -> None:
    with suppress(OSError):
        _clear_unfinished(job)
    job.update(state=FAILED, reason=reason[:2000], finished=time.time())


def _recover(job: Entry) -> None:
    """What a server that was killed left."""
    state = job.status.get("state", WAITING)
    if state not in (WAITING, RUNNING):
        return
    if result_of(job) is not None:
        job.update(state=DONE, progress=1.0, doing="", finished=time.time())
    elif job.status.get("starts", 0) >= _MOST_STARTS:
        _fail(job, f"the server ended {_MOST_STARTS} times while it ran")
    else:
        job.update(state=WAITING, starts=job.status.get("starts", 0), progress=0.0)


def _clear_unfinished(job: Entry) -> None:
    """What a killed command was writing lies under hidden names beside its result."""
    for path in job.folder.glob(".*"):
        shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink(missing_ok=True)


def result_of(job: Entry) -> Path | None:
    """The finished folder or file of a job."""
    return next((path for name in ("result", "result.html") if (path := job.folder / name).exists()), None)


def command_of(arguments: list[str]) -> str:
    """What to type to get the same."""
    return shlex.join(["mvtrack", *arguments])


def refuse_full_disk(store: Store, limits: StudioLimits, more: int = 0) -> None:
    """Raises ValueError where `more` bytes would not leave what is to be kept free."""
    free = store.free_bytes()
    if free - more < limits.keep_free_bytes:
        raise ValueError(
            f"the disk is full: {free / 1e9:.1f} GB are free and {limits.keep_free_gb:g} GB are kept; remove results"
        )
