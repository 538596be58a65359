"""Any moving picture as one thing: video files, GIFs, folders of images, single images; read in pieces, never whole.

decord decodes what it can; ffmpeg's own decoder serves what decord does not (AV1, say). Frames come in display
orientation, RGB, 8 bit. Files whose frames are unevenly spaced in time are read on an even grid of the same
average rate, each tick showing the frame that was on screen; `notes` says so.
"""

import contextlib
import os
import re
import subprocess
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor

IMAGE_SUFFIXES = {".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff"}
VIDEO_SUFFIXES = {".mp4", ".mov", ".m4v", ".mkv", ".webm", ".avi", ".mpg", ".mpeg", ".ts", ".gif", ".wmv", ".flv"}
DEFAULT_FPS = 24.0  # of images, which do not say
_UNEVEN = 0.25  # frame times may stray from an even grid by this share of a frame before they count as uneven
MAX_SIDE = 16384


@dataclass
class Footage(ABC):
    """num_frames at `fps`, size (H, W) as displayed; notes: what had to be done to read it."""

    path: Path
    num_frames: int
    fps: float
    size: tuple[int, int]
    notes: list[str] = field(default_factory=list)

    @abstractmethod
    def read(self, start: int, stop: int, size: tuple[int, int] | None = None) -> UInt8[Tensor, "T 3 H W"]:
        """Frames [start, stop), resized to `size` (H, W) while decoding. Cheap when starts ascend.

        Raises ValueError that names the file when it ends early or is damaged.
        """

    def _check(self, start: int, stop: int) -> None:
        if not 0 <= start < stop <= self.num_frames:
            raise ValueError(f"{self.path} has {self.num_frames} frames, asked for {start}..{stop}")


def open_footage(path: Path | str, still_frames: int = 81, fps: float | None = None) -> Footage:
    """Open a video file, a GIF, a folder of images (in natural order), or one image shown for `still_frames` frames.

    fps: the rate of images, which have none of their own (24). Raises ValueError that names the file and what is wrong.
    """
    path = Path(path)
    if not path.exists():
        raise ValueError(f"{path} does not exist")
    if fps is not None and not 0 < fps <= 1000:
        raise ValueError(f"the frame rate must lie in (0, 1000], got {fps}")
    if path.is_dir():
        files = sorted((p for p in path.iterdir() if p.suffix.lower() in IMAGE_SUFFIXES), key=_natural)
        if not files:
            raise ValueError(f"folder {path} holds no images ({', '.join(sorted(IMAGE_SUFFIXES))})")
        return ImageFootage.of(path, files, fps or DEFAULT_FPS)
    if not path.is_file():
        raise ValueError(f"{path} is neither a file nor a folder")
    if path.stat().st_size == 0:
        raise ValueError(f"{path} is empty (0 bytes)")
    if path.suffix.lower() in IMAGE_SUFFIXES:
        if still_frames < 1:
            raise ValueError(f"a still image needs at least 1 frame, got {still_frames}")
        return ImageFootage.of(path, [path] * still_frames, fps or DEFAULT_FPS)
    if path.suffix.lower() == ".gif":
        return _open_with_ffmpeg(path)
    opened = _open_with_decord(path)
    return _open_with_ffmpeg(path) if opened is None else opened


def _natural(path: Path) -> list:
    return [int(part) if part.isdigit() else part.lower() for part in re.split(r"(\d+)", path.name)]


# Video files through decord


@dataclass
class DecordFootage(Footage):
    """frame_of: which coded frame each tick shows, where frame times are uneven."""

    frame_of: np.ndarray | None = None
    _readers: dict = field(default_factory=dict, repr=False)

    def read(self, start: int, stop: int, size: tuple[int, int] | None = None) -> UInt8[Tensor, "T 3 H W"]:
        decord = _decord()

        self._check(start, stop)
        if size not in self._readers:
            self._readers.clear()  # one decoder at a time
            reader = _decord_reader(self.path, size)
            self._readers[size] = reader if _has_three_channels(reader) else _decord_reader(self.path)
        index = np.arange(start, stop) if self.frame_of is None else self.frame_of[start:stop]
        try:
            frames = self._readers[size].get_batch(index.tolist()).asnumpy()
        except (RuntimeError, decord.DECORDError) as error:
            raise ValueError(f"{self.path} is damaged: frames {start}..{stop} cannot be decoded") from error
        if frames.shape[1:3] != (size or self.size):
            frames = np.stack([_resized(frame, size) for frame in frames])
        return torch.from_numpy(frames).permute(0, 3, 1, 2)


def _decord():
    """decord, after OpenCV: the other way round OpenCV meets decord's zlib and can read no PNG any more."""
    import cv2  # noqa: F401
    import decord

    return decord


def _decord_reader(path: Path, size: tuple[int, int] | None = None):
    decord = _decord()

    height, width = size or (-1, -1)
    return decord.VideoReader(str(path), width=width, height=height, num_threads=os.cpu_count() or 1)


def _has_three_channels(reader) -> bool:
    """Whether decord can hand out RGB frames. It takes the number of channels for a padded row's length over the width,
    so frames 8, 12, 16, 24, 48 or 72 pixels wide come out with a wrong one, and batches of them not at all."""
    return reader[0].shape[2] == 3


def _open_with_decord(path: Path) -> Footage | None:
    """None where decord cannot: ffmpeg gets its try then."""
    decord = _decord()

    with _quiet_stderr():
        try:
            reader = _decord_reader(path)
            count, fps = len(reader), float(reader.get_avg_fps())
            if count == 0 or not 0 < fps < 1000 or not _has_three_channels(reader):
                return None
            height, width, _ = reader[0].shape
            times = reader.get_frame_timestamp(np.arange(count))[:, 0]
        except (RuntimeError, decord.DECORDError):
            return None
    _check_size(path, (height, width))
    ticks, frame_of = even_ticks(times, fps)
    notes = (
        [] if frame_of is None else [f"uneven frame times: {count} frames shown on {ticks} even ticks at {fps:g} fps"]
    )
    return DecordFootage(path, ticks, fps, (height, width), notes, frame_of)


def even_ticks(times_s: np.ndarray, fps: float) -> tuple[int, np.ndarray | None]:
    """How many ticks of 1/fps a sequence of frame times spans, and the frame on screen at each (None: even already)."""
    offset = times_s - times_s[0]
    if len(times_s) < 3 or np.abs(offset - np.arange(len(times_s)) / fps).max() * fps <= _UNEVEN:
        return len(times_s), None
    last = float(np.median(np.diff(offset)))  # how long the last frame stays is not said
    ticks = max(1, round((offset[-1] + last) * fps))
    shown = np.searchsorted(offset, np.arange(ticks) / fps + 0.5 / fps, side="right") - 1
    return ticks, np.clip(shown, 0, len(times_s) - 1)


@contextlib.contextmanager
def _quiet_stderr():
    """decord's ffmpeg writes to the process's stderr about files that we report on ourselves."""
    kept, null = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(null, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(null)


# Everything else through ffmpeg


@dataclass
class FfmpegFootage(Footage):
    """Reads a pipe from ffmpeg front to back; frames that windows share are kept, going back starts it again."""

    _process: subprocess.Popen | None = field(default=None, repr=False)
    _size: tuple[int, int] | None = None
    _next: int = 0
    _kept: dict[int, np.ndarray] = field(default_factory=dict, repr=False)

    def read(self, start: int, stop: int, size: tuple[int, int] | None = None) -> UInt8[Tensor, "T 3 H W"]:
        self._check(start, stop)
        size = size or self.size
        if self._process is None or size != self._size or start < min([*self._kept, self._next]):
            self._restart(size)
        self._kept = {i: frame for i, frame in self._kept.items() if i >= start}
        bytes_a_frame = size[0] * size[1] * 3
        while self._next < stop:
            raw = self._process.stdout.read(bytes_a_frame)
            if len(raw) < bytes_a_frame:
                self.close()
                raise ValueError(f"{self.path} is damaged: it ends at frame {self._next} of {self.num_frames}")
            if self._next >= start:
                self._kept[self._next] = np.frombuffer(raw, np.uint8).reshape(*size, 3)
            self._next += 1
        frames = np.stack([self._kept[i] for i in range(start, stop)])
        return torch.from_numpy(frames).permute(0, 3, 1, 2)

    def _restart(self, size: tuple[int, int]) -> None:
        self.close()
        self._size = size
        scale = f"fps={self.fps:.6f},scale={size[1]}:{size[0]}:flags=bicubic"
        command = [ffmpeg(), "-nostdin", "-loglevel", "error", "-i", str(self.path), "-an", "-vf", scale]
        command += ["-f", "rawvideo", "-pix_fmt", "rgb24", "-"]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)

    def close(self) -> None:
        """End the decoder."""
        if self._process:
            self._process.kill()
            self._process.stdout.close()
            self._process.wait()
        self._process, self._next, self._kept = None, 0, {}

    def __del__(self) -> None:
        self.close()


def ffmpeg() -> str:
    """The ffmpeg program that comes with imageio."""
    import imageio_ffmpeg

    return imageio_ffmpeg.get_ffmpeg_exe()


def _open_with_ffmpeg(path: Path) -> Footage:
    """Count what ffmpeg can decode (its only sure way to know). Raises ValueError when that is nothing."""
    command = [
        ffmpeg(),
        "-nostdin",
        "-hide_banner",
        "-i",
        str(path),
        "-an",
        "-vf",
        "showinfo=checksum=0",
        "-f",
        "null",
        "-",
    ]
    try:
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=3600)
    except subprocess.TimeoutExpired as error:
        raise ValueError(f"{path} cannot be decoded within an hour") from error
    frames = re.findall(r"pts_time:\s*(-?[\d.]+).*? s:(\d+)x(\d+)", done.stderr)
    if not frames:
        raise ValueError(f"cannot read {path} as a video: it is damaged, not a video, or of an unknown codec")
    if done.returncode != 0:
        raise ValueError(f"{path} is damaged: only the first {len(frames)} frames can be decoded")
    times = np.array([float(time) for time, _, _ in frames])
    width, height = int(frames[0][1]), int(frames[0][2])
    _check_size(path, (height, width))
    span = times[-1] - times[0]
    fps = (len(times) - 1) / span if len(times) > 1 and span > 0 else DEFAULT_FPS
    ticks, frame_of = even_ticks(times, fps)
    notes = ["decoded by ffmpeg"]
    if frame_of is not None:
        notes.append(f"uneven frame times: {len(times)} frames shown on {ticks} even ticks at {fps:g} fps")
    return FfmpegFootage(path, ticks, fps, (height, width), notes)


# Images


@dataclass
class ImageFootage(Footage):
    """One image file a frame; alpha is laid over black."""

    files: list[Path] = field(default_factory=list, repr=False)

    @staticmethod
    def of(path: Path, files: list[Path], fps: float) -> "ImageFootage":
        first = _read_image(files[0])
        notes = [f"one image shown for {len(files)} frames"] if path.is_file() else []
        return ImageFootage(path, len(files), fps, first.shape[:2], notes, files)

    def read(self, start: int, stop: int, size: tuple[int, int] | None = None) -> UInt8[Tensor, "T 3 H W"]:
        self._check(start, stop)
        frames, last = [], (None, None)
        for file in self.files[start:stop]:
            if file != last[0]:
                image = _read_image(file)
                if image.shape[:2] != self.size:
                    raise ValueError(
                        f"{file} is {image.shape[0]}x{image.shape[1]}, the first image is {self.size[0]}x{self.size[1]}"
                    )
                last = (file, image if size is None else _resized(image, size))
            frames.append(last[1])
        return torch.from_numpy(np.stack(frames)).permute(0, 3, 1, 2)


def _resized(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    import cv2

    smaller = size[0] * size[1] < image.shape[0] * image.shape[1]
    return cv2.resize(image, size[::-1], interpolation=cv2.INTER_AREA if smaller else cv2.INTER_CUBIC)


def _read_image(path: Path) -> np.ndarray:
    import cv2

    try:
        raw = np.frombuffer(path.read_bytes(), np.uint8)
    except OSError as error:
        raise ValueError(f"cannot read {path}: {error.strerror}") from error
    image = cv2.imdecode(raw, cv2.IMREAD_UNCHANGED) if raw.size else None
    if image is None:
        raise ValueError(f"cannot read {path} as an image: it is empty, damaged or of an unknown format")
    if image.dtype == np.uint16:
        image = (image / 257).round().astype(np.uint8)
    if image.dtype != np.uint8:
        raise ValueError(f"{path} has values of type {image.dtype}; only 8 and 16 bit images are read")
    _check_size(path, image.shape[:2])
    if image.ndim == 2:
        return np.repeat(image[..., None], 3, 2)
    if image.shape[2] == 4:
        alpha = image[..., 3:].astype(np.float32) / 255
        image = (image[..., :3] * alpha + 0.5).astype(np.uint8)
    return np.ascontiguousarray(image[..., 2::-1])


def _check_size(path: Path, size: tuple[int, int]) -> None:
    if not (1 <= size[0] <= MAX_SIDE and 1 <= size[1] <= MAX_SIDE):
        raise ValueError(f"{path} is {size[1]}x{size[0]} pixels; up to {MAX_SIDE} a side are read")


# Sound


def copy_audio(silent: Path, source: Path, out: Path) -> str:
    """Lay the sound of `source` under the silent video; returns what happened. `out` is written only on success."""
    if source.is_dir() or source.suffix.lower() in IMAGE_SUFFIXES | {".gif"}:
        return "none: the input has no sound"
    probe = subprocess.run(
        [ffmpeg(), "-nostdin", "-hide_banner", "-i", str(source)], capture_output=True, text=True, errors="replace"
    )
    if "Audio:" not in probe.stderr:
        return "none: the input has no sound"
    for codec in ("copy", "aac"):
        command = [ffmpeg(), "-nostdin", "-y", "-loglevel", "error", "-i", str(silent), "-i", str(source)]
        command += ["-map", "0:v:0", "-map", "1:a:0", "-c:v", "copy", "-c:a", codec, "-shortest", str(out)]
        if subprocess.run(command, capture_output=True).returncode == 0:
            return "copied" if codec == "copy" else "re-encoded as AAC"
        out.unlink(missing_ok=True)
    return "lost: ffmpeg could not carry it over"
