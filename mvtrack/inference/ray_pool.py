"""Independent tasks one after the other, or over the workers of a Ray cluster: many devices, many machines.

What a task writes it writes itself, under names of its own, so results are the same bytes either way.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import ModuleType
from typing import Any, NamedTuple, TypeVar

import torch

from mvtrack.config.cluster import RayOptions

Task, Result = TypeVar("Task"), TypeVar("Result")
_RETRIES = 3  # of a task whose worker dies


class Outcome(NamedTuple):
    """A task that is done. result: what it gave, or the ValueError that it ended in."""

    task: Any
    result: Any


def run_tasks(
    make: Callable[[], Callable[[Task], Result]], tasks: Sequence[Task], options: RayOptions | None = None
) -> Iterator[Outcome]:
    """Every task's outcome as it is done; a ValueError of a task is its outcome, other errors end the run.

    make: loads what tasks need and gives the function that does one; called once a worker. On Ray tasks of a worker
    that is killed are done anew by another one. Raises ValueError where Ray is missing, and for a task that kills its
    worker every time.
    """
    if options is None or not options.ray:
        work = make() if tasks else None
        for task in tasks:
            yield Outcome(task, _outcome(work, task))
        return
    yield from _on_ray(make, tasks, options.ray_workers)


def _outcome(work: Callable[[Task], Result], task: Task) -> Result | ValueError:
    try:
        return work(task)
    except ValueError as error:
        return error


def _on_ray(
    make: Callable[[], Callable[[Task], Result]], tasks: Sequence[Task], count: int | None
) -> Iterator[Outcome]:
    if not tasks:
        return
    with connected() as ray:
        gpus = int(ray.cluster_resources().get("GPU", 0))
        count = min(count or gpus or len(ray.nodes()), len(tasks))
        each = {"num_gpus": 1} if gpus else {"num_cpus": 1}
        actor = ray.remote(**each, max_restarts=-1, max_task_retries=_RETRIES)(_Worker)
        sent = ray.put(make)  # kept until the end: a worker that starts again asks for it again
        workers = [actor.remote(sent, torch.get_num_threads(), os.getcwd()) for _ in range(count)]
        yield from _collect(workers, tasks)
        for worker in workers:
            ray.kill(worker)  # whoever stays connected needs their devices


@contextmanager
def connected() -> Iterator[ModuleType]:
    """Ray while it is connected to its cluster; around several `run_tasks` they share the connection.

    Raises ValueError where Ray is missing.
    """
    try:
        import ray
    except ImportError as error:
        raise ValueError("--ray needs Ray: pip install -e '.[ray]'") from error
    mine = not ray.is_initialized()
    if mine:
        ray.init(address=os.environ.get("RAY_ADDRESS"), log_to_driver=False, include_dashboard=False)
    try:
        yield ray
    finally:
        if mine:
            ray.shutdown()


def _collect(workers: list[Any], tasks: Sequence[Task]) -> Iterator[Outcome]:
    """Give each free worker the next task."""
    import ray

    waiting, running = list(reversed(tasks)), {}
    free = list(workers)
    while waiting or running:
        while waiting and free:
            worker, task = free.pop(), waiting.pop()
            running[worker.do.remote(task)] = (worker, task)
        (done, *_), _ = ray.wait(list(running))
        worker, task = running.pop(done)
        free.append(worker)
        try:
            result = ray.get(done)
        except ray.exceptions.RayTaskError as error:
            raise error.cause from None
        except ray.exceptions.RayActorError as error:
            raise ValueError(f"{task}: its worker died {_RETRIES + 1} times ({str(error).splitlines()[0]})") from None
        yield Outcome(task, result)


class _Worker:
    """A process of the cluster. folder: what relative paths start from, where its machine has it."""

    def __init__(self, make: Callable[[], Callable], threads: int, folder: str) -> None:
        if os.path.isdir(folder):
            os.chdir(folder)
        torch.set_num_threads(threads)  # sums in another order would be other bytes
        self.work = make()

    def do(self, task: Any) -> Any:
        return _outcome(self.work, task)
