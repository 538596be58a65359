"""Tables 2 and 3 on the iPhone benchmark: `python eval/iphone.py --data DYCHECK/iphone --model FOLDER`.

The moving camera's video is re-shot to where the still cameras stand, and compared with what those saw. Rows gather in
one results folder, as with eval/davis.py. docs/evaluation.md
"""

import argparse
import sys
from pathlib import Path

from mvtrack.config.errors import run_command
from mvtrack.evaluation.benchmarks.case_list import list_cases
from mvtrack.evaluation.benchmarks.iphone import SEQUENCES, IPhone
from mvtrack.evaluation.command import add_run_arguments, case_size, run_benchmark
from mvtrack.evaluation.row_options import methods_of
from mvtrack.inference.pipeline import camera_record
from mvtrack.video.resize import FIT_MODES


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder that holds a folder a sequence")
    parser.add_argument("--sequences", default=",".join(SEQUENCES), help="comma-separated")
    parser.add_argument("--size", type=case_size, default=(480, 832), help="of all pictures, height x width")
    parser.add_argument("--num-frames", type=int, default=81)
    parser.add_argument("--start", type=int, default=0, help="first frame of the moving camera")
    parser.add_argument("--stride", type=int, default=1, help="every so manyth of its frames")
    parser.add_argument("--fit", choices=FIT_MODES, default="crop", help="how portrait pictures meet the size")
    parser.add_argument("--list-cases", action="store_true", help="print the cases, write their cameras, do no more")
    add_run_arguments(parser, "outputs/iphone")
    options = parser.parse_args()
    return run_command(lambda: _run(options), "iphone", options.debug)


def _run(options: argparse.Namespace) -> None:
    sequences = tuple(name.strip() for name in options.sequences.split(",") if name.strip())
    benchmark = IPhone(
        options.data, sequences, options.size, options.num_frames, options.start, options.stride, options.fit
    )
    if options.list_cases:
        list_cases(benchmark, options.out / "cameras", camera_record, options.debug)
    else:
        run_benchmark(benchmark, methods_of(options), options)


if __name__ == "__main__":
    sys.exit(main())
