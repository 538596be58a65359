"""Table 4 on MultiCamVideo: `python eval/multicam.py --data MultiCamVideo-Dataset/train --model FOLDER`.
docs/evaluation.md"""

import json
import sys
from pathlib import Path

from mvtrack.config.checked import Count, config
from mvtrack.config.command_line import option, run, section
from mvtrack.config.datasets import DatasetOptions
from mvtrack.config.errors import leave
from mvtrack.evaluation.benchmarks.case_list import list_cases
from mvtrack.evaluation.benchmarks.multicam import MultiCam
from mvtrack.evaluation.command import RETIRED, BenchmarkCommand, RunOptions, methods_of, run_benchmark, size_of
from mvtrack.inference.pipeline import camera_record


@config(kw_only=True)
class MultiCamCommand(BenchmarkCommand):
    """Table 4's columns on a dataset of synchronised videos: of each scene one video is re-shot along another's camera.
    Rows gather in one folder, as with eval/davis.py."""

    data: Path = option(..., "a dataset's folder, such as MultiCamVideo's", metavar="ROOT")
    scenes: Count = option(40, "drawn at random, and two views of each", metavar="N")
    draw_seed: int = option(0, "of scenes and views")
    list_cases: bool = option(False, "only print the cases and write their cameras")
    size: tuple[int, int] = option((480, 832), "of all pictures; default: 480x832", metavar="HxW", parse=size_of)
    num_frames: Count = option(81, "of each video", metavar="N")
    dataset: DatasetOptions = section(DatasetOptions, "what a dataset does not say of itself")
    run: RunOptions = section(RunOptions, "running", out=Path("outputs/multicam"))


def main() -> int:
    return run(MultiCamCommand, _run, None, "multicam", retired=RETIRED)


def _run(options: MultiCamCommand) -> None:
    settings = options.settings()
    benchmark = MultiCam(
        options.data, options.dataset, options.scenes, options.size, options.num_frames, options.draw_seed
    )
    if options.list_cases:
        list_cases(benchmark, options.run.out / "cameras", camera_record, options.debug)
        return
    methods = methods_of(options.rows, settings, not options.run.ignore_memory)
    summary = run_benchmark(benchmark, options, settings, methods)
    if summary is not None:
        rows = {row["name"]: _means(row["scores"], benchmark) for row in summary["rows"]}
        sys.stdout.write(json.dumps({"figures": rows}) + "\n")


def _means(scores: dict, benchmark: MultiCam) -> dict:
    """The paper's columns of one row: the closing line's figures; None where nothing was scored."""
    keys = [key for columns in benchmark.paper_columns.values() for key in columns]
    return {key: scores[key]["mean"] if key in scores else None for key in keys}


if __name__ == "__main__":
    leave(main())
