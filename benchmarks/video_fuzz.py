"""`python benchmarks/video_fuzz.py [--minutes 10]`: video files damaged at random are read or refused, never more.

Takes the random clips of video_input.py, cuts, patches, blanks, moves or repeats bytes of them, and opens them, with
and without `damaged="use-good-part"`, in a process of its own. Wrong are a crash, an error that does not name the file,
a read of another shape or of other frames than a second one that begins elsewhere, and more than 5 s of the processor.
"""

import argparse
import multiprocessing
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import numpy as np
import torch
from bench import report
from video_input import make_clip

from mvtrack.video.reader import open_video

MOST_SECONDS, MOST_WAIT = 5.0, 60.0  # of the processor, and of the clock
DAMAGED_A_CLIP = 12


def damage(content: bytes, rng: np.random.Generator) -> bytes:
    """The same file with one fault, or a few."""
    data = bytearray(content)
    for _ in range(int(rng.integers(1, 4))):
        at, kind = int(rng.integers(0, len(data))), rng.integers(0, 6)
        length = int(rng.integers(1, 1 + min(400, len(data) - at)))
        if kind == 0:
            data = data[: max(1, at)]
        elif kind == 1:
            data[at : at + length] = bytes(length)
        elif kind == 2:
            data[at : at + length] = rng.bytes(length)
        elif kind == 3:
            del data[at : at + length]
        elif kind == 4:
            data[at:at] = data[at : at + length]
        else:  # in what says how the file is built
            head = int(rng.integers(0, min(2000, len(data))))
            data[head] = int(rng.integers(256))
        if not data:
            return b"\0"
    return bytes(data)


def outcome(path: Path, damaged: str, rng: np.random.Generator) -> str:
    """`read`, `refused`, or what is wrong."""
    try:
        video = open_video(path, damaged=damaged)
        frames = video.read(0, len(video))
        if frames.shape != (len(video), 3, *video.size):
            return f"wrong: read {tuple(frames.shape)} of {len(video)} frames of {video.size}"
        start = int(rng.integers(0, len(video)))
        sought = open_video(path, damaged=damaged)
        if len(sought) != len(video):
            return f"wrong: {len(video)} frames, then {len(sought)}"
        if not torch.equal(sought.read(start, start + 1), frames[start : start + 1]):
            return f"wrong: frame {start} differs by the way to it"
    except ValueError as error:
        return "refused" if path.name in str(error) else f"wrong: an error without the file's name: {error}"
    except Exception as error:  # noqa: BLE001 - a fuzz reports whatever comes
        return f"wrong: {type(error).__name__}: {error}"
    return "read"


def _work(connection) -> None:
    torch.set_num_threads(1)
    while True:
        path, damaged, seed = connection.recv()
        began = time.process_time()
        said = outcome(path, damaged, np.random.default_rng(seed))
        connection.send((said, time.process_time() - began))


class Worker:
    """A process that reads files, started anew when it dies or hangs."""

    def __init__(self) -> None:
        self.process = None

    def ask(self, *job: object) -> tuple[str, float]:
        if self.process is None:
            context = multiprocessing.get_context("spawn")
            self.pipe, theirs = context.Pipe()
            self.process = context.Process(target=_work, args=(theirs,), daemon=True)
            self.process.start()
            theirs.close()
        self.pipe.send(job)
        try:
            if self.pipe.poll(MOST_WAIT):
                return self.pipe.recv()
            said = f"wrong: nothing after {MOST_WAIT:g} s"
        except EOFError:
            said = "wrong: the process crashed"
        self.stop()
        return said, 0.0

    def stop(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.join()
            self.process = None


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--seed", type=int, default=0, help="of the first clip")
    parser.add_argument("--keep", type=Path, help="folder for the files that were read wrong")
    options = parser.parse_args()
    ends, seed, worker = time.monotonic() + 60 * options.minutes, options.seed, Worker()
    counts, slowest = Counter(), 0.0
    while time.monotonic() < ends:
        with tempfile.TemporaryDirectory() as folder:
            clip = make_clip(seed, Path(folder))
            whole, rng = clip.path.read_bytes(), np.random.default_rng(seed)
            for number in range(DAMAGED_A_CLIP):
                path = Path(folder, f"damaged_{seed}_{number}{clip.path.suffix}")
                path.write_bytes(damage(whole, rng))
                said, seconds = worker.ask(path, ("refuse", "use-good-part")[number % 2], seed)
                if seconds > MOST_SECONDS:
                    said = f"wrong: {seconds:.1f} s"
                slowest = max(slowest, seconds)
                counts[said.split(":")[0]] += 1
                if said.startswith("wrong"):
                    sys.stdout.write(f"{path.name}, {clip.kind}: {said}\n")
                    if options.keep:
                        options.keep.mkdir(parents=True, exist_ok=True)
                        (options.keep / path.name).write_bytes(path.read_bytes())
        seed += 1
    worker.stop()
    figures = {"files": counts.total(), "read": counts["read"], "refused": counts["refused"], "wrong": counts["wrong"]}
    return report(figures | {"slowest, s": slowest}, {"wrong": ("<=", 0), "slowest, s": ("<=", MOST_SECONDS)})


if __name__ == "__main__":
    sys.exit(main())
