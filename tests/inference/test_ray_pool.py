"""Tasks over a local Ray cluster of two workers give what they give one after the other, also when one is killed."""

import os
import signal
from pathlib import Path

import pytest

from mvtrack.config.cluster import RayOptions
from mvtrack.inference.ray_pool import run_tasks

ray = pytest.importorskip("ray", reason="Ray is not installed: pip install -e '.[ray]'")
TWO = RayOptions(ray=True, ray_workers=2)


@pytest.fixture(scope="module")
def cluster():
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    yield
    ray.shutdown()


def _square_into(folder: Path):
    """A worker that writes a file a task, and dies in the middle of task 3 the first time."""

    def work(task: int) -> int:
        if task == 3 and not (folder / "died").exists():
            (folder / "died").touch()
            os.kill(os.getpid(), signal.SIGKILL)
        if task == 5:
            raise ValueError("five is broken")
        (folder / f"{task}.txt").write_text(str(task * task))
        return task * task

    return lambda: work


@pytest.mark.slow
def test_a_killed_workers_task_is_done_anew(cluster, tmp_path):
    (tmp_path / "alone").mkdir()
    (tmp_path / "alone/died").touch()
    (tmp_path / "spread").mkdir()
    tasks = list(range(8))
    alone = {o.task: o.result for o in run_tasks(_square_into(tmp_path / "alone"), tasks)}
    spread = {o.task: o.result for o in run_tasks(_square_into(tmp_path / "spread"), tasks, TWO)}
    assert spread.keys() == alone.keys() == set(tasks)
    for outcomes in (alone, spread):
        assert str(outcomes.pop(5)) == "five is broken"  # named, and gone past
    assert alone == spread
    files = [{p.name: p.read_bytes() for p in (tmp_path / who).glob("*.txt")} for who in ("alone", "spread")]
    assert files[0] == files[1]
    assert len(files[0]) == 7


@pytest.mark.slow
def test_a_task_that_always_kills_its_worker_is_named(cluster):
    def make():
        return lambda task: os.kill(os.getpid(), signal.SIGKILL)

    with pytest.raises(ValueError, match="the_task: its worker died 4 times"):
        list(run_tasks(make, ["the_task"], TWO))


@pytest.mark.slow
def test_other_errors_end_the_run_as_they_are(cluster):
    def make():
        def work(task):
            raise KeyError(task)

        return work

    with pytest.raises(KeyError, match="[ab]"):
        list(run_tasks(make, ["a", "b"], TWO))


def test_workers_without_ray_are_refused():
    with pytest.raises(ValueError, match="--ray-workers is for --ray"):
        RayOptions(ray_workers=2)
    assert list(run_tasks(lambda: pytest.fail("nothing to do"), [], TWO)) == []
