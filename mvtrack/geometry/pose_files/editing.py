"""Small changes to a sequence on its way from one format to another."""

import re
from dataclasses import replace

import torch

from mvtrack.geometry.pose_files.parse import Place, number, show
from mvtrack.geometry.pose_files.sequence import CameraSequence


def some_frames(sequence: CameraSequence, start: int | None, stop: int | None, step: int | None) -> CameraSequence:
    """Frames start, start + step, … before stop. Raises ValueError where there are none, or stop is past the end."""
    if step == 0:
        raise ValueError("the step between frames must be at least 1, got 0")
    if max(start or 0, (stop or 0) - 1) >= sequence.num_frames or (stop is not None and stop <= (start or 0)):
        raise ValueError(f"frames {start or 0} to {stop} are wanted, and there are {sequence.num_frames}")
    return sequence.frames(list(range(sequence.num_frames))[start:stop:step])


def scaled(sequence: CameraSequence, factor: float) -> CameraSequence:
    """All lengths times `factor`, for instance 0.01 for centimetres that are to be metres."""
    number(factor, Place("scale"), 1e-9, 1e9)
    points = None if sequence.points is None else sequence.points * factor
    return replace(sequence, camera=sequence.camera.scaled(factor), points=points)


def timed(sequence: CameraSequence, fps: float) -> CameraSequence:
    """Times at an even rate, from 0 s, in place of any that there were."""
    number(fps, Place("fps"), 1e-3, 1e6)
    return replace(sequence, timestamps_s=torch.arange(sequence.num_frames, dtype=torch.float64) / fps)


def renamed(sequence: CameraSequence, pattern: str) -> CameraSequence:
    """Names made of the frame's number by a pattern such as frame_{:05d}.png."""
    match = re.fullmatch(r"([^{}]*)\{(?::0([0-9]{1,2})d)?\}([^{}]*)", pattern)
    if not match:
        raise ValueError(f"expected a pattern with the frame's number, such as frame_{{:05d}}, got {show(pattern)}")
    names = tuple(f"{match[1]}{index:0{match[2] or 1}d}{match[3]}" for index in range(sequence.num_frames))
    return replace(sequence, names=names)
