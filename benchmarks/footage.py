"""`python benchmarks/footage.py`: opening and reading video against decord's own reader, and a long video's memory.

The reference decodes and resizes all frames of 1280x720 to 480x832 with decord alone; both open the file anew. What
counts is the processor's time, of all threads, since other programs' turns hit the clock: the median over pairs, which
are timed in either order, for a clip of 4 seconds and for one of 10.
Memory is the peak of a process that reads a whole 10-minute video in windows, over the peak of one that reads its first
minute. What opening costs is that of a 10-second clip of 1280x720.
"""

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import decord
import numpy as np
from bench import report, timed_by_turns

from mvtrack.video.reader import ffmpeg, open_video

SIZE, WINDOW = (480, 832), 81
_READ = """
import resource, sys
from mvtrack.video.reader import open_video
footage, last, window = open_video(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
for start in range(0, min(last, len(footage)) - window + 1, window):
    footage.read(start, start + window, (60, 104))
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--small", action="store_true", help="seconds instead of minutes: does it run?")
    options = parser.parse_args()
    frames, minutes, rounds = (10, 0.2, 1) if options.small else (100, 10, 15)
    with tempfile.TemporaryDirectory() as folder:
        clip, ten, long = (Path(folder, f"{name}.mp4") for name in ("clip", "ten", "long"))
        _make(clip, "1280x720", frames / 25)
        _make(ten, "1280x720", 10)
        _make(long, "640x360", 60 * minutes)

        assert np.array_equal(_ours(clip).transpose(0, 2, 3, 1), _reference(clip))
        short, by_clock, seconds = _ratios(clip, rounds)
        ordinary, _, _ = _ratios(ten, rounds)
        opening = timed_by_turns({"ours": lambda: open_video(ten)}, rounds)["ours"]
        total = len(open_video(long))
        whole, part = _peak_kib(long, total), _peak_kib(long, total // 10)
    figures = {
        "opening 10 s of 1280x720, ms": 1000 * opening,
        "decord over ours, opening and reading 4 s": short,
        "decord over ours, opening and reading 10 s": ordinary,
        "decord over ours, 4 s by the clock": by_clock,
        "decord, s": seconds,
        "whole long video over its first tenth, peak memory": whole / part,
        "peak memory, MiB": whole / 1024,
    }
    return report(
        figures,
        {
            "opening 10 s of 1280x720, ms": ("<=", 60),
            "decord over ours, opening and reading 4 s": (">=", 0.95),
            "decord over ours, opening and reading 10 s": (">=", 0.95),
            "whole long video over its first tenth, peak memory": ("<=", 1.15),
        },
    )


def _ours(clip: Path) -> np.ndarray:
    video = open_video(clip)
    return video.read(0, len(video), SIZE).numpy()


def _reference(clip: Path) -> np.ndarray:
    reader = decord.VideoReader(str(clip), width=SIZE[1], height=SIZE[0])
    return reader.get_batch(range(len(reader))).asnumpy()


def _ratios(clip: Path, rounds: int) -> tuple[float, float, float]:
    """decord's time over ours, by the processor and by the clock: medians of pairs, in either order; decord's s."""
    processor, clock, seconds = [], [], []
    for turn in range(2 * rounds):
        first, second = (_ours, _reference) if turn % 2 else (_reference, _ours)
        pair = {read: _once(read, clip) for read in (first, second)}
        processor.append(pair[_reference][0] / pair[_ours][0])
        clock.append(pair[_reference][1] / pair[_ours][1])
        seconds.append(pair[_reference][0])
    return statistics.median(processor), statistics.median(clock), statistics.median(seconds)


def _once(read: Callable[[Path], np.ndarray], clip: Path) -> tuple[float, float]:
    processor, clock = time.process_time(), time.perf_counter()
    read(clip)
    return time.process_time() - processor, time.perf_counter() - clock


def _make(path: Path, size: str, seconds: float) -> None:
    source = f"testsrc2=size={size}:rate=25:duration={seconds}"
    command = [ffmpeg(), "-nostdin", "-loglevel", "error", "-f", "lavfi", "-i", source]
    subprocess.run([*command, "-preset", "ultrafast", "-pix_fmt", "yuv420p", str(path)], check=True)


def _peak_kib(path: Path, frames: int) -> int:
    command = [sys.executable, "-c", _READ, str(path), str(frames), str(WINDOW)]
    return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


if __name__ == "__main__":
    sys.exit(main())
