"""Writing video files with imageio's ffmpeg, so that nothing half-written stays behind. Reading is in footage.py."""

import os
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor

from mvtrack.files.atomic_io import beside


class VideoWriter:
    """Context manager: H.264 mp4, frame by frame. The file appears under its name only when the block ends well.

    lossless: RGB, every value kept, any size; decoders read it, browsers do not.
    """

    def __init__(self, path: Path, fps: float, crf: int = 16, lossless: bool = False) -> None:
        if not 0 < fps <= 1000:
            raise ValueError(f"cannot write {path} at {fps} frames per second")
        self.path = path
        self.size: tuple[int, int] | None = None  # (H, W) as encoded
        self._aside = beside(path, path.suffix)
        self._multiple = 1 if lossless else 2
        coding = {"codec": "libx264rgb", "pixelformat": "rgb24"} if lossless else {"codec": "libx264"}
        quality = ["-crf", "0" if lossless else str(crf)]
        self._options = {"fps": fps, "macro_block_size": 1, "output_params": quality, **coding}

    def __enter__(self) -> "VideoWriter":
        import imageio

        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._writer = imageio.get_writer(self._aside, format="FFMPEG", **self._options)
        return self

    def append(self, frame: UInt8[np.ndarray, "H W 3"]) -> None:
        """Add an 8-bit RGB frame. Odd sizes get their last row or column repeated: 4:2:0 colour needs even ones."""
        height, width = frame.shape[:2]
        frame = np.pad(frame, ((0, height % self._multiple), (0, width % self._multiple), (0, 0)), mode="edge")
        self.size = frame.shape[:2]
        self._writer.append_data(frame)

    def __exit__(self, kind, error, trace) -> None:
        self._writer.close()
        try:
            if kind is None and self.size is not None:
                os.replace(self._aside, self.path)
        finally:
            self._aside.unlink(missing_ok=True)


def write_video(
    path: Path | str, frames: Iterable[np.ndarray] | Tensor, fps: float, crf: int = 16, lossless: bool = False
) -> Path:
    """Write 8-bit RGB frames (H, W, 3), or a tensor (T, 3, H, W) in [-1, 1], as H.264 mp4 (see `VideoWriter`)."""
    with VideoWriter(Path(path), fps, crf, lossless) as writer:
        for frame in to_bytes(frames) if isinstance(frames, Tensor) else frames:
            writer.append(np.asarray(frame))
    return Path(path)


def to_bytes(video: Tensor) -> np.ndarray:
    """(T, 3, H, W) in [-1, 1] to 8-bit (T, H, W, 3), rounded."""
    return ((video.clamp(-1, 1) + 1) * 127.5 + 0.5).to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()


def from_bytes(video: UInt8[Tensor, "*B 3 H W"]) -> Tensor:
    """8-bit RGB to [-1, 1]."""
    return video.float() / 127.5 - 1
