"""Table 1 on DAVIS: `python eval/davis.py --data DAVIS --model FOLDER --out outputs/davis`. docs/evaluation.md"""

import sys
from pathlib import Path

from mvtrack.config.checked import Count, config
from mvtrack.config.command_line import option, refuse_unused, run, section
from mvtrack.config.errors import leave
from mvtrack.evaluation.benchmarks.case_list import list_cases
from mvtrack.evaluation.benchmarks.davis import Davis
from mvtrack.evaluation.benchmarks.davis_list import Rule, find_sequences, make_list, read_list, write_list
from mvtrack.evaluation.command import RETIRED, BenchmarkCommand, RunOptions, methods_of, run_benchmark, size_of
from mvtrack.inference.pipeline import camera_record


@config(kw_only=True)
class DavisCommand(BenchmarkCommand):
    """Table 1 on DAVIS. Rows gather in one results folder, a command each."""

    data: Path = option(..., "holds JPEGImages and Annotations", metavar="FOLDER")
    split: str | None = option(None, "under ImageSets, such as 2016/val; default: all")
    paths: Rule = option("round_robin", "or all10: presets for each sequence", metavar="RULE")
    list: Path | None = option(None, "CSV of sequence, trajectory, speed, caption", metavar="CSV")
    list_cases: bool = option(False, "only print the cases and write their cameras")
    size: tuple[int, int] = option((480, 832), "of all pictures; default: 480x832", metavar="HxW", parse=size_of)
    num_frames: Count = option(81, "of each sequence", metavar="N")
    run: RunOptions = section(RunOptions, "running", out=Path("outputs/davis"))


def main() -> int:
    return run(DavisCommand, _run, None, "davis", retired=RETIRED)


def _run(options: DavisCommand) -> None:
    settings, out = options.settings(), options.run.out
    if options.list:
        refuse_unused(options, "split", "paths", why="it is for cases without --list: leave it out")
        cases = read_list(options.list)
    else:
        cases = make_list(find_sequences(options.data, settings.davis.resolution, options.split), options.paths)
    benchmark = Davis(options.data, cases, options.size, options.num_frames, **settings.davis.arguments())
    if benchmark.unit_warning:
        sys.stderr.write(f"davis: pose files: {benchmark.unit_warning}\n")
    if options.list_cases:
        write_list(out / "cases.csv", cases)
        list_cases(benchmark, out / "cameras", camera_record, options.debug)
        return
    methods = methods_of(options.rows, settings, not options.run.ignore_memory)
    if run_benchmark(benchmark, options, settings, methods) is not None:  # shards leave the list to the last run
        write_list(out / "cases.csv", cases)


if __name__ == "__main__":
    leave(main())
