"""Programs of other environments that metrics and estimators run: a new one is a line here and a script in workers/."""

import os
from collections.abc import Callable, Iterable
from itertools import islice
from pathlib import Path

from mvtrack.evaluation.interface import Sample, Scores, Skipped
from mvtrack.inference.external_program import ExternalProgram, write_frames
from mvtrack.video.writer import to_bytes

_WORKERS = Path(__file__).parent / "workers"
# name in the settings: title, the module that its environment must have, worker, variable with its interpreter
_PROGRAMS = {
    "vbench": ("VBench", "vbench", "vbench_worker.py", "MVTRACK_VBENCH_PYTHON"),
    "met3r": ("MEt3R", "met3r", "met3r_worker.py", "MVTRACK_MET3R_PYTHON"),
    "mast3r": ("MASt3R", "mast3r", "pairs_worker.py", "MVTRACK_MAST3R_PYTHON"),
    "vggt": ("VGGT", "vggt", "pairs_worker.py", "MVTRACK_VGGT_PYTHON"),
    "depth_anything_3": ("Depth Anything 3", "depth_anything_3", "pairs_worker.py", "MVTRACK_DA3_PYTHON"),
}
_TOGETHER = 4  # samples in memory while a program's network is loaded once


def external_program(name: str, python: Path | None) -> ExternalProgram:
    """One of the programs, to be run by an interpreter that has it."""
    title, package, worker, variable = _PROGRAMS[name]
    how = f"install it in an environment of its own and set environments.{name} in --settings FILE, or ${variable}"
    return ExternalProgram(_WORKERS / worker, package, title, python, how)


def interpreter_in_environment(name: str) -> Path | None:
    """The interpreter that a variable names, for where the settings name none."""
    value = os.environ.get(_PROGRAMS[name][3])
    return Path(value) if value else None


def few_at_a_time(
    samples: Iterable[Sample], score: Callable[[list[Sample]], list[Scores | Skipped]]
) -> list[Scores | Skipped]:
    """Results of all samples, of which only a few are in memory at once."""
    samples, results = iter(samples), []
    while together := list(islice(samples, _TOGETHER)):
        results += score(together)
    return results


def write_videos(folder: Path, sample: Sample) -> None:
    """Both videos as pictures: 0/frames/00000.png ... of the reference, 1/frames/... of the generated one."""
    for view, video in enumerate((sample.inputs.reference, sample.generated)):
        write_frames(folder / str(view), to_bytes(video))


def picture_name(sample: int, view: int, time: int) -> str:
    """Where a picture of the n-th sample lies in a job's folder, if its videos were written to folder/<n>."""
    return f"{sample}/{view}/frames/{time:05d}.png"
