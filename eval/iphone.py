"""Tables 2 and 3 on the iPhone benchmark: `python eval/iphone.py --data DYCHECK/iphone --model FOLDER`.
docs/evaluation.md"""

from dataclasses import asdict
from pathlib import Path

from mvtrack.config.checked import Count, config
from mvtrack.config.command_line import option, run, section
from mvtrack.config.errors import leave
from mvtrack.evaluation.benchmarks.case_list import list_cases
from mvtrack.evaluation.benchmarks.iphone import SEQUENCES, IPhone
from mvtrack.evaluation.command import (
    RETIRED,
    BenchmarkCommand,
    RunOptions,
    methods_of,
    names_of,
    run_benchmark,
    size_of,
)
from mvtrack.inference.pipeline import camera_record


@config(kw_only=True)
class IPhoneCommand(BenchmarkCommand):
    """Tables 2 and 3 on the iPhone benchmark: the moving camera's video is re-shot to where the still cameras stand.
    Rows gather in one folder, as with eval/davis.py."""

    data: Path = option(..., "holds a folder a sequence", metavar="FOLDER")
    sequences: tuple[str, ...] = option(
        SEQUENCES, "comma-separated; default: all seven", metavar="LIST", parse=names_of
    )
    list_cases: bool = option(False, "only print the cases and write their cameras")
    size: tuple[int, int] = option((480, 832), "of all pictures; default: 480x832", metavar="HxW", parse=size_of)
    num_frames: Count = option(81, "of each sequence", metavar="N")
    run: RunOptions = section(RunOptions, "running", out=Path("outputs/iphone"))


def main() -> int:
    return run(IPhoneCommand, _run, None, "iphone", retired=RETIRED)


def _run(options: IPhoneCommand) -> None:
    settings = options.settings()
    benchmark = IPhone(options.data, options.sequences, options.size, options.num_frames, **asdict(settings.iphone))
    if options.list_cases:
        list_cases(benchmark, options.run.out / "cameras", camera_record, options.debug)
    else:
        methods = methods_of(options.rows, settings, not options.run.ignore_memory)
        run_benchmark(benchmark, options, settings, methods)


if __name__ == "__main__":
    leave(main())
