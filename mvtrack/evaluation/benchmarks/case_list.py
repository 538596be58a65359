"""What a program needs that is to make a benchmark's videos: its cases' names, lengths and cameras."""

import json
import sys
from collections.abc import Callable
from pathlib import Path

from mvtrack.evaluation.interface import Benchmark, Skipped
from mvtrack.evaluation.runner.case import guarded
from mvtrack.evaluation.runner.records import write_text
from mvtrack.geometry.camera import Camera


def list_cases(benchmark: Benchmark, folder: Path, record: Callable[[Camera, float], dict], debug: bool) -> None:
    """Print every case and write <folder>/<case>.json: the reference's cameras and those to render, for pictures of the
    benchmark's size.

    record: turns cameras (2, T) and frames per second into plain values. Goes on after a case that cannot be read, and
    raises ValueError in the end.
    """
    keys, bad = benchmark.case_keys(), 0
    for key in keys:
        inputs = guarded(lambda key=key: benchmark.load(key), debug=debug)
        if isinstance(inputs, Skipped):
            sys.stdout.write(f"{key}: {inputs.kind}: {inputs.reason}\n")
            bad += inputs.kind == "failed"
            continue
        write_text(folder / f"{key}.json", json.dumps(record(inputs.camera, inputs.fps), indent=1))
        scored = "" if inputs.target is None else f", {len(inputs.target_frames)} with a true target"
        sys.stdout.write(f"{key}: {len(inputs.reference)} frames{scored}\n")
    if bad:
        raise ValueError(f"{bad} of {len(keys)} cases cannot be read, as listed; {folder} has the cameras of the rest")
