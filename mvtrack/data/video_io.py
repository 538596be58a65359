"""Video files in and out: decord reads, imageio's ffmpeg writes, and nothing half-written stays behind."""

import os
from collections.abc import Iterable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor


@dataclass(frozen=True)
class VideoInfo:
    num_frames: int
    fps: float
    size: tuple[int, int]  # (H, W) as displayed, rotation metadata applied


def _open(path: Path, size: tuple[int, int] | None = None):
    """A decord reader; (H, W) asks decord to resize while decoding."""
    import decord

    path = Path(path)
    if not path.is_file():
        raise ValueError(f"video {path} does not exist" if not path.exists() else f"video {path} is not a file")
    if path.stat().st_size == 0:
        raise ValueError(f"video {path} is empty (0 bytes)")
    height, width = size or (-1, -1)
    try:
        return decord.VideoReader(str(path), width=width, height=height, num_threads=os.cpu_count() or 1)
    except (RuntimeError, decord.DECORDError) as error:
        raise ValueError(
            f"cannot read {path} as a video: it is damaged, not a video, or of an unknown codec"
        ) from error


def probe(path: Path | str) -> VideoInfo:
    """Length, frame rate and size of a video, without decoding all of it."""
    reader = _open(Path(path))
    if len(reader) == 0:
        raise ValueError(f"video {path} holds no frames")
    height, width, _ = reader[0].shape
    return VideoInfo(len(reader), float(reader.get_avg_fps()), (height, width))


def read_video(
    path: Path | str, size: tuple[int, int] | None = None, frames: range | None = None
) -> tuple[UInt8[Tensor, "T 3 H W"], float]:
    """Frames (RGB, 8 bit) and frame rate. size: (H, W) to resize to while decoding; frames: which ones (all).

    Raises ValueError that names the file when it is missing, empty, no video, or ends early.
    """
    import decord

    reader = _open(Path(path), size)
    wanted = range(len(reader)) if frames is None else frames
    if len(reader) == 0:
        raise ValueError(f"video {path} holds no frames")
    if len(wanted) == 0 or wanted[0] < 0 or wanted[-1] >= len(reader):
        raise ValueError(f"video {path} has {len(reader)} frames, asked for {wanted}")
    try:
        batch = reader.get_batch(list(wanted)).asnumpy()
    except (RuntimeError, decord.DECORDError) as error:
        raise ValueError(f"video {path} is damaged: decoding its {len(wanted)} frames failed") from error
    return torch.from_numpy(batch).permute(0, 3, 1, 2), float(reader.get_avg_fps())


def write_video(path: Path | str, frames: Iterable[np.ndarray] | Tensor, fps: float, crf: int = 16) -> Path:
    """H.264 mp4 of 8-bit RGB frames (H, W, 3), or a tensor (T, 3, H, W) in [-1, 1]. Written aside, then renamed."""
    import imageio

    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.stem}.{os.getpid()}{path.suffix}")
    options = {"fps": fps, "codec": "libx264", "macro_block_size": 1, "output_params": ["-crf", str(crf)]}
    try:
        # imageio's own context manager leaves ffmpeg running when an error passes through it
        with closing(imageio.get_writer(aside, format="FFMPEG", **options)) as writer:
            for frame in to_bytes(frames) if isinstance(frames, Tensor) else frames:
                writer.append_data(_even(np.asarray(frame)))
        os.replace(aside, path)
    finally:
        aside.unlink(missing_ok=True)
    return path


def to_bytes(video: Tensor) -> np.ndarray:
    """(T, 3, H, W) in [-1, 1] to 8-bit (T, H, W, 3), rounded."""
    return ((video.clamp(-1, 1) + 1) * 127.5 + 0.5).to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()


def from_bytes(video: UInt8[Tensor, "*B 3 H W"]) -> Tensor:
    """8-bit RGB to [-1, 1]."""
    return video.float() / 127.5 - 1


def _even(frame: np.ndarray) -> np.ndarray:
    """H.264 with 4:2:0 colour needs even sizes: repeat the last row or column where the size is odd."""
    height, width = frame.shape[:2]
    return np.pad(frame, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")
