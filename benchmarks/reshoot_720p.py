"""`python benchmarks/reshoot_720p.py [--video FILE]`: time and memory of `mvtrack reshoot` of 93 frames of 1280x720.

The result is of the source's size, the path an arc of 10 degrees, so that depth is estimated and every part of full
resolution works. Without --video the source is made here: a window that moves over noise of natural statistics. The
command runs in a process of its own; what counts is that process: its processor time (all threads), its time by the
clock, which other programs lengthen, and its peak of resident memory.
"""

import argparse
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import cv2
import numpy as np
from bench import report

from mvtrack.video.reader import open_video
from mvtrack.video.writer import write_video

FRAMES, SIZE, FPS = 93, (720, 1280), 30.0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--video", type=Path, help="a real video; its first 93 frames are scaled to 1280x720")
    parser.add_argument("--camera", default="arc_left 10deg")
    parser.add_argument("--small", action="store_true", help="seconds instead of minutes: does it run?")
    options = parser.parse_args()
    frames, size = (5, (72, 128)) if options.small else (FRAMES, SIZE)
    with tempfile.TemporaryDirectory() as folder:
        clip = Path(folder, "clip.mp4")
        if options.video:
            footage = open_video(options.video).read(0, frames, size)
            write_video(clip, footage.permute(0, 2, 3, 1).numpy(), FPS, crf=12)
        else:
            write_video(clip, moving_window(frames, size), FPS)
        command = [sys.executable, "-m", "mvtrack", "reshoot", str(clip), "--camera", options.camera]
        began = time.perf_counter()
        subprocess.run([*command, "--out", str(Path(folder, "out"))], check=True, stdout=subprocess.DEVNULL)
        wall = time.perf_counter() - began
        made = open_video(Path(folder, "out", "video.mp4"))
        assert (len(made), made.size) == (frames, size)
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    figures = {
        "processor time, s": used.ru_utime + used.ru_stime,
        "by the clock, s": wall,
        "peak memory, GiB": used.ru_maxrss / 2**20,
    }
    targets = {"processor time, s": ("<=", 120), "by the clock, s": ("<=", 60), "peak memory, GiB": ("<=", 1.5)}
    return report(figures, {} if options.small else targets)


def moving_window(frames: int, size: tuple[int, int]):
    """8-bit frames of a window that moves over a picture with a 1/f spectrum."""
    height, width = size[0] + frames, size[1] + 2 * frames
    rng = np.random.default_rng(0)
    picture = np.zeros((height, width, 3), np.float32)
    for octave in range(9):
        cells = rng.standard_normal((2 + (height >> octave), 2 + (width >> octave), 3), np.float32)
        picture += 2.0**octave * cv2.resize(cells, (width, height), interpolation=cv2.INTER_CUBIC)
    picture = (128 + 50 * picture / picture.std()).clip(0, 255).astype(np.uint8)
    for t in range(frames):
        yield picture[t : t + size[0], 2 * t : 2 * t + size[1]]


if __name__ == "__main__":
    sys.exit(main())
