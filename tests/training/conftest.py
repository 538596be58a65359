"""A pool of CPU ranks that stays alive over a module's trainings, because starting ranks costs more than these.

No longer than that: DeepSpeed leaves its own `linear` behind after a training at ZeRO stage 3, which rounds otherwise.
"""

import contextlib
import json
import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from copy import deepcopy
from pathlib import Path

import pytest


class RankPool:
    """`world` processes that train jobs together. They start at the first job, and anew where one of them ended."""

    def __init__(self, world: int) -> None:
        self.world, self.ranks = world, []

    def _start(self) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        common = {"WORLD_SIZE": str(self.world), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
        self.log = tempfile.TemporaryFile("w+")  # noqa: SIM115  (closed with the pool)
        self.ranks = [
            subprocess.Popen(
                [sys.executable, str(Path(__file__).with_name("rank_worker.py"))],
                env={**os.environ, **common, "RANK": str(rank), "LOCAL_RANK": str(rank)},
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.log, text=True,
            )
            for rank in range(self.world)
        ]  # fmt: skip
        for process in self.ranks:
            self._answer(process, "ready")

    def train(
        self, tree: dict, resume: str | None = None, accept_changes: bool = False, faults: dict | None = None
    ) -> list[str | None]:
        """Run one training on all ranks; returns each rank's error or None. faults: per rank, see rank_worker.py."""
        if not self.ranks:
            self._start()
        job = {"config": tree, "resume": resume, "accept_changes": accept_changes, "faults": faults or {}}
        line = json.dumps(job) + "\n"
        for process in self.ranks:
            process.stdin.write(line)
            process.stdin.flush()
        return [json.loads(self._answer(process))["error"] for process in self.ranks]

    def _answer(self, process: subprocess.Popen, expected: str | None = None) -> str:
        line = process.stdout.readline().strip()
        if not line or (expected and line != expected):
            self.log.seek(0)
            said = self.log.read()[-3000:]
            for rank in self.ranks:
                rank.kill()
            self.close()
            raise RuntimeError(f"a rank ended: {said}")
        return line

    def close(self) -> None:
        """End the ranks."""
        for process in self.ranks:
            with contextlib.suppress(BrokenPipeError):
                process.stdin.close()
        for process in self.ranks:
            process.wait(timeout=60)
            process.stdout.close()
        if self.ranks:
            self.log.close()
        self.ranks = []


def _pool(world: int) -> Iterator[RankPool]:
    pool = RankPool(world)
    yield pool
    pool.close()


@pytest.fixture(scope="module")
def one_rank():
    yield from _pool(1)


@pytest.fixture(scope="module")
def two_ranks():
    yield from _pool(2)


@pytest.fixture(scope="module")
def four_ranks():
    yield from _pool(4)


def job_in(run_dir: Path, small_run: dict, **changes) -> dict:
    """A run config with changes such as `train__steps=3`."""
    tree = deepcopy(small_run)
    tree["train"]["run_dir"] = str(run_dir)
    for key, value in changes.items():
        section, _, field = key.partition("__")
        tree[section][field] = value
    return tree


@pytest.fixture
def job(small_run, tmp_path):
    """Make a run config from `small_run` with changes, in a folder of its own."""

    return lambda name="run", **changes: job_in(tmp_path / name, small_run, **changes)
