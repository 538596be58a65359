"""Table 1 on DAVIS: `python eval/davis.py --data DAVIS --model FOLDER --out outputs/davis`.

Rows gather in one results folder: run again with --videos FOLDER (videos of any other program, one <case>.mp4 each),
with --baselines all, or with another --model. `--list-cases` prints the cases' names and writes their camera paths, for
the program that is to make the videos. docs/evaluation.md
"""

import argparse
import sys
from pathlib import Path

from mvtrack.config.errors import run_command
from mvtrack.evaluation.benchmarks.case_list import list_cases
from mvtrack.evaluation.benchmarks.davis import Davis
from mvtrack.evaluation.benchmarks.davis_list import RULES, find_sequences, make_list, read_list, write_list
from mvtrack.evaluation.command import add_run_arguments, case_size, run_benchmark
from mvtrack.evaluation.row_options import methods_of
from mvtrack.evaluation.unused_options import refuse_idle
from mvtrack.geometry.trajectory import PIVOT_M
from mvtrack.inference.camera_estimation.source_cameras import AUTO
from mvtrack.inference.pipeline import DEFAULT_FOV_DEG, camera_record
from mvtrack.video.resize import FIT_MODES


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    _add_arguments(parser)
    add_run_arguments(parser, "outputs/davis")
    options = parser.parse_args()
    return run_command(lambda: _run(options), "davis", options.debug)


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--data", type=Path, required=True, help="folder that holds JPEGImages and Annotations")
    parser.add_argument("--split", help="file under ImageSets without .txt, such as 2016/val; default: all sequences")
    parser.add_argument(
        "--paths", choices=RULES, default="round_robin", help="one preset for each sequence, or all ten"
    )
    parser.add_argument("--list", type=Path, help="CSV of sequence, trajectory, speed, caption instead of --paths")
    parser.add_argument("--list-cases", action="store_true", help="print the cases, write their cameras, do no more")
    parser.add_argument("--resolution", default="480p", help="folder under JPEGImages, such as 1080p, Full-Resolution")
    parser.add_argument("--annotations", default="Annotations", help="folder of masks, or Annotations_unsupervised")
    parser.add_argument("--size", type=case_size, default=(480, 832), help="of all pictures, height x width")
    parser.add_argument("--num-frames", type=int, default=81, help="of each sequence, from its first on")
    parser.add_argument("--fov", type=float, default=DEFAULT_FOV_DEG, help="horizontal, degrees; DAVIS does not say")
    parser.add_argument("--subject-distance", type=float, default=PIVOT_M, help="metres, nominal")
    parser.add_argument(
        "--source-cameras", type=_source_cameras,
        help="folder with a pose file for each sequence, or auto to measure them (pycolmap); default: still",
    )  # fmt: skip
    parser.add_argument("--short-clips", choices=("score_real", "skip"), default="score_real")
    parser.add_argument("--fit", choices=FIT_MODES, default="crop", help="how pictures meet the size")


def _run(options: argparse.Namespace) -> None:
    refuse_idle(options, _add_arguments, ("split", "paths"), options.list is None, "cases without --list")
    refuse_idle(options, _add_arguments, ("fov",), options.source_cameras is None, "sources without --source-cameras")
    if options.list:
        cases = read_list(options.list)
    else:
        cases = make_list(find_sequences(options.data, options.resolution, options.split), options.paths)
    benchmark = Davis(
        options.data,
        cases,
        options.size,
        options.num_frames,
        options.fov,
        options.subject_distance,
        options.short_clips,
        options.fit,
        options.source_cameras,
        options.resolution,
        options.annotations,
    )
    if benchmark.unit_warning:
        sys.stderr.write(f"davis: pose files: {benchmark.unit_warning}\n")
    if options.list_cases:
        write_list(options.out / "cases.csv", cases)
        list_cases(benchmark, options.out / "cameras", camera_record, options.debug)
    elif run_benchmark(benchmark, methods_of(options), options) is not None:  # shards leave the list to the last run
        write_list(options.out / "cases.csv", cases)


def _source_cameras(text: str) -> Path | str:
    return text if text == AUTO else Path(text)


if __name__ == "__main__":
    sys.exit(main())
