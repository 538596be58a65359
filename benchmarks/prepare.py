"""`python benchmarks/prepare.py`: reading a scene of MultiCamVideo's size for training against bare decoding.

Two videos of 1280x1280 and 81 frames with their poses are read and fitted to 480x832 as `mvtrack prepare` does, up to
where the frames go to the encoder's device; the reference decodes the same frames with decord alone, scaled by it to
the size that fitting scales them to (832x832), as arrays. What counts is the processor's time, of all threads, since
other programs' turns hit the clock: the median over pairs of turns.
"""

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

import decord
import numpy as np
import torch
from bench import report, seconds_by_turns

from mvtrack.config.datasets import DatasetOptions
from mvtrack.config.presets import preset
from mvtrack.data.public.fitting import FittedScene
from mvtrack.data.public.registry import open_dataset_folder
from mvtrack.geometry.camera import Camera
from mvtrack.geometry.pose_files.files import write_cameras
from mvtrack.geometry.pose_files.sequence import CameraSequence
from mvtrack.video.reader import ffmpeg
from mvtrack.video.resize import plan_fit

SIZE, PICTURE, SCALED = (480, 832), 1280, 832  # fitting scales by the width, and cuts rows off


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--small", action="store_true", help="seconds instead of minutes: does it run?")
    small = parser.parse_args().small
    frames, rounds = (9, 1) if small else (81, 9)
    with tempfile.TemporaryDirectory() as folder:
        videos = _write_scene(Path(folder, "clips", "scene"), frames)
        layout, (files,) = open_dataset_folder(Path(folder, "clips"), DatasetOptions())
        fit = partial(plan_fit, config=preset("recammaster_1.3b"), mode="crop", size=SIZE)

        def ours() -> int:
            return sum(len(view.video) for view in FittedScene(layout.read(files), frames, fit, 2).views())

        def reference() -> int:
            return sum(len(_decode(path, frames)) for path in videos)

        assert (ours(), reference()) == (2 * frames, 2 * frames), (ours(), reference())
        seconds = seconds_by_turns({"ours": ours, "decord": reference}, rounds, time.process_time)
    name = "bare decoding over reading for training, processor time"
    ratio = statistics.median(bare / read for bare, read in zip(seconds["decord"], seconds["ours"], strict=True))
    figures = {name: ratio} | {f"{who}, s": statistics.median(values) for who, values in seconds.items()}
    return report(figures, {} if small else {name: (">=", 0.9)})


def _decode(path: Path, frames: int) -> np.ndarray:
    reader = decord.VideoReader(str(path), width=SCALED, height=SCALED)
    return reader.get_batch(range(frames)).asnumpy()


def _write_scene(folder: Path, frames: int) -> list[Path]:
    folder.mkdir(parents=True)
    K = torch.tensor([[1300.0, 0, PICTURE / 2], [0, 1300.0, PICTURE / 2], [0, 0, 1]], dtype=torch.float64)
    camera = Camera(torch.eye(4).double().expand(frames, 4, 4), K.expand(frames, 3, 3), (PICTURE, PICTURE))
    videos = [folder / f"cam{number:02d}.mp4" for number in (1, 2)]
    for path in videos:
        source = f"testsrc2=size={PICTURE}x{PICTURE}:rate=15:duration={frames / 15:.4f}"
        command = [ffmpeg(), "-nostdin", "-loglevel", "error", "-f", "lavfi", "-i", source]
        subprocess.run([*command, "-pix_fmt", "yuv420p", "-frames:v", str(frames), str(path)], check=True)
        write_cameras(path.with_suffix(".json"), CameraSequence(camera, tuple(map(str, range(frames)))), "json")
    return videos


if __name__ == "__main__":
    sys.exit(main())
