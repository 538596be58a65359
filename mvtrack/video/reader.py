"""`open_video`: video files, animated and still images, folders of images; read in pieces, never whole.

Files are probed first. decord decodes what it reads rightly (its count, its key frames and its times agree with the
probe's), PyAV everything else, with this project's own choice of frames.
"""

import contextlib
import os
import re
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Int, UInt8

from mvtrack.config.video_reading import OnDamage, VideoReading
from mvtrack.files.addresses import refuse_address
from mvtrack.video.decode import DamagedError, Decoder, picture
from mvtrack.video.images import (
    ANIMATED_SUFFIXES,
    IMAGE_SUFFIXES,
    ImageVideo,
    images_in,
    is_hidden,
    open_animated,
    resized,
)
from mvtrack.video.probe import Orientation, VideoProbe, probe_video
from mvtrack.video.ticks import UNEVEN, Ticks, even_ticks
from mvtrack.video.video import Video

VIDEO_SUFFIXES = {
    ".mp4", ".mov", ".m4v", ".mkv", ".webm", ".avi", ".mpg", ".mpeg", ".ts", ".mts", ".m2ts", ".gif", ".wmv", ".flv",
    ".3gp", ".3g2", ".asf", ".vob", ".mxf", ".ogv", ".divx", ".m2v",
}  # fmt: skip
_WIDE = 128  # pixels; see `_has_three_channels`
_COMPLAINT = re.compile(
    rb"^(?:\[\w+(?:,\w+)* @ 0x|Truncating packet).*", re.MULTILINE
)  # of ffmpeg's, at its level "error"
_BACK = 16  # frames that are decoded at once on the way back
_DECORD_CODECS = {"h264", "hevc", "vp9"}


def open_video(
    path: Path | str, still_frames: int = 81, fps: float | None = None, damaged: OnDamage = "refuse",
    decode_all: bool = False,
) -> Video:  # fmt: skip
    """Open a video file, an animated image, a folder of images (in natural order), or one image for `still_frames`.

    fps: the rate of images, which have none of their own (24). damaged: whether a file that is broken from some frame
    on is refused, or its good part used with a note. decode_all: decode every frame once, to find all damage before
    hours of work; without it packets are looked at alone. Raises ValueError that names the file and what is wrong.
    """
    refuse_address(path)
    VideoReading(fps, damaged)  # checks them
    path = Path(path)
    if not path.exists():
        raise ValueError(f"{path} does not exist")
    if path.is_dir():
        files = images_in(path)
        if not files:
            raise ValueError(f"folder {path} holds no images ({', '.join(sorted(IMAGE_SUFFIXES))})")
        return ImageVideo.of(path, files, fps)
    _check_file(path)
    suffix = path.suffix.lower()
    if suffix in ANIMATED_SUFFIXES and (animated := open_animated(path, fps)) is not None:
        return animated
    if suffix in IMAGE_SUFFIXES:
        if still_frames < 1:
            raise ValueError(f"a still image needs at least 1 frame, got {still_frames}")
        return ImageVideo.of(path, [path] * still_frames, fps)
    if fps is not None:
        raise ValueError(f"{path} has a frame rate of its own: --fps is for images")
    probe = probe_video(path, decode_all or damaged == "use-good-part")
    return _video_file(probe, damaged)


def videos_in(folder: Path) -> list[Path]:
    """Video files of a folder, by name."""
    files = (path for path in folder.iterdir() if path.suffix.lower() in VIDEO_SUFFIXES)
    return sorted(path for path in files if not is_hidden(path))


def _check_file(path: Path) -> None:
    if not path.is_file():
        raise ValueError(f"{path} is neither a file nor a folder")
    if path.stat().st_size == 0:
        raise ValueError(f"{path} is empty (0 bytes)")
    if is_hidden(path) and path.name.startswith("._"):
        raise ValueError(f"{path} is what macOS keeps beside a file, no video: give {path.name[2:]}")


def _video_file(probe: VideoProbe, damaged: OnDamage) -> Video:
    notes = []
    if probe.damage:
        good = probe.good or 0
        shown = f"{probe.damage}; its first {good} of {probe.stated} frames are good"
        if damaged == "refuse" or good == 0:
            fix = ": --damaged use-good-part goes on with them" if good else ""
            raise ValueError(f"{probe.path} is damaged: {shown}{fix}")
        probe, notes = probe.truncated(good), [f"damaged: {shown} and are used"]
    try:
        ticks = even_ticks(
            probe.times_s, probe.fps_candidates, probe.last_duration_s, probe.resolution_s, _stray(probe)
        )
    except ValueError as error:
        raise ValueError(f"{probe.path} is damaged: {error}") from error
    may_be_damaged = damaged == "use-good-part" or not len(probe.keyframes)
    kind = DecordVideo if _decord_may_read(probe) else partial(AvVideo, is_suspect=may_be_damaged)
    return kind(
        probe.path, ticks.fps, probe.display_size, ticks.frame_of, len(probe), [*notes, *_notes(probe, ticks)],
        probe.orientation.size(probe.size), _start(probe), probe.has_sound,
        probe=probe,
    )  # fmt: skip


def _stray(probe: VideoProbe) -> float:
    """MPEG program streams time packets, not frames: a frame may get the time of the one after it."""
    return 1.25 if probe.container == "mpeg" else UNEVEN


def _start(probe: VideoProbe) -> float:
    """Seconds from the file's beginning to its first frame. AVI has no times, only the order of decoding."""
    return 0.0 if probe.container == "avi" else max(0.0, float(probe.times_s[0]) - probe.container_start_s)


def _notes(probe: VideoProbe, ticks: Ticks) -> list[str]:
    """What is done to the file so that it looks as players show it."""
    notes = [ticks.note] if ticks.note else []
    if probe.is_interlaced:
        notes.append("interlaced: deinterlaced, one frame of two fields (bwdif)")
    if probe.pixel_aspect != 1:
        aspect, (height, width) = probe.pixel_aspect, probe.square_size
        shown = f"{aspect.numerator}:{aspect.denominator}"
        notes.append(f"pixels of {shown} made square: {probe.size[1]}x{probe.size[0]} becomes {width}x{height}")
    if probe.has_alpha:
        notes.append("transparent parts lie over black")
    return notes + probe.color.notes(probe.size)


@dataclass
class AvVideo(Video):
    """Through PyAV, frame by frame; frames that windows share are kept, and going back some before them, which are
    decoded on the way. is_suspect: it may be damaged."""

    probe: VideoProbe | None = field(default=None, repr=False)
    is_suspect: bool = False
    _decoder: Decoder | None = field(default=None, repr=False)
    _kept: dict[int, np.ndarray] = field(default_factory=dict, repr=False)
    _kept_size: tuple[int, int] | None = None
    _at: int = 0  # first frame of the last window

    def _read_own(self, index: Int[np.ndarray, "n"], size: tuple[int, int]) -> UInt8[np.ndarray, "n H W 3"]:
        if size != self._kept_size:
            self._kept, self._kept_size = {}, size
        first, last, before = int(index[0]), int(index[-1]), self._at
        low, high = first if first > before else 0, last if first < before else len(self.probe)
        self._kept, self._at = {i: frame for i, frame in self._kept.items() if low <= i <= high}, first
        self._decoder = self._decoder or Decoder(self.probe, self.is_suspect)
        wanted = index.tolist()
        if before - _BACK <= first < before and first not in self._kept:
            wanted = [*range(max(0, last + 1 - _BACK), first), *wanted]
        for i in wanted:
            if i not in self._kept:
                self._kept[i] = picture(self._decoder.frame(i), self.probe, size)
        return np.stack([self._kept[i] for i in index.tolist()])


@dataclass
class DecordVideo(Video):
    """Through decord; through PyAV where decord turns out to see another file than the probe did, or complains: it
    hides damage by what it happens to have decoded before."""

    probe: VideoProbe | None = field(default=None, repr=False)
    _readers: dict = field(default_factory=dict, repr=False)
    _fallback: AvVideo | None = field(default=None, repr=False)

    def _read_own(self, index: Int[np.ndarray, "n"], size: tuple[int, int]) -> UInt8[np.ndarray, "n H W 3"]:
        if self._fallback is None and size not in self._readers:
            self._readers.clear()  # one decoder at a time
            reader = self._open(size)
            if reader is None:
                self._fall_back()
            else:
                self._readers[size] = reader
        if self._fallback is not None:
            return self._fallback._read_own(index, size)
        decord = _decord()
        try:
            with _quiet_stderr() as complaints:
                batch = self._readers[size].get_batch(index.tolist())
                frames = torch.from_dlpack(batch.to_dlpack()).numpy()  # without a copy
        except (RuntimeError, decord.DECORDError) as error:
            raise DamagedError(f"{self.path} is damaged: frames {index[0]}..{index[-1]} cannot be decoded") from error
        if complaints:
            self._fall_back()
            return self._fallback._read_own(index, size)
        if frames.shape[1:3] != size:
            frames = np.stack([resized(frame, size) for frame in frames])
        return frames

    def _fall_back(self) -> None:
        self._readers.clear()
        self._fallback = AvVideo(
            self.path, self.fps, self.size, self.frame_of, self.own_frames, probe=self.probe, is_suspect=True
        )

    def _open(self, size: tuple[int, int]):
        """decord's reader, None where it does not agree with the probe."""
        decord = _decord()
        with _quiet_stderr():
            try:
                reader = _decord_reader(self.path, None if size == self.size else size)
                if not _agrees(reader, self.probe):
                    return None
                if not _has_three_channels(reader, size):
                    reader = _decord_reader(self.path)
                    return reader if _has_three_channels(reader, self.size) else None
            except (RuntimeError, decord.DECORDError):
                return None
        return reader


def _decord_may_read(probe: VideoProbe) -> bool:
    """Whether a file is of the kinds that decord reads as players show them."""
    plain = probe.orientation == Orientation() and probe.pixel_aspect == 1 and probe.color.is_ordinary
    simple = (
        probe.is_closed
        and probe.resets
        and not (probe.has_preroll or probe.is_interlaced or probe.has_alpha or probe.damage)
    )
    is_kept = probe.pixel_format == "yuv420p" and not probe.color.is_full and probe.codec in _DECORD_CODECS
    starts = probe.pts is not None and probe.pts[0] >= 0 and len(probe.keyframes) and probe.keyframes[0] == 0
    return bool(plain and simple and is_kept and starts and not probe.container.startswith("mpegts"))


def _agrees(reader, probe: VideoProbe) -> bool:
    """Whether decord sees the probe's frames: their number, their times and where decoding can begin."""
    if len(reader) != len(probe):
        return False
    times = reader.get_frame_timestamp(np.arange(len(probe)))[:, 0]
    spacing = np.diff(probe.times_s).min() if len(probe) > 1 else 1.0
    same = np.abs((times - times[0]) - (probe.times_s - probe.times_s[0])).max() < max(0.25 * spacing, 1e-3)
    return bool(same and np.isin(reader.get_key_indices(), probe.keyframes).all())


def _decord():
    """decord, after OpenCV: the other way round OpenCV meets decord's zlib and can read no PNG any more."""
    import cv2  # noqa: F401
    import decord

    return decord


def _decord_reader(path: Path, size: tuple[int, int] | None = None):
    height, width = size or (-1, -1)
    return _decord().VideoReader(str(path), width=width, height=height, num_threads=os.cpu_count() or 1)


def _has_three_channels(reader, size: tuple[int, int]) -> bool:
    """Whether decord can hand out RGB frames. It takes the number of channels for a padded row's length over the width,
    so frames 8, 12, 16, 24, 48 or 72 pixels wide come out with a wrong one, and batches of them not at all."""
    return size[1] >= _WIDE or reader[0].shape[2] == 3  # decoding one costs a seek back


@contextlib.contextmanager
def _quiet_stderr() -> Iterator[list[bytes]]:
    """decord writes to the process's stderr about files that are reported on here; what it complains of."""
    complaints, kept = [], os.dup(2)
    with tempfile.TemporaryFile() as said:
        try:
            os.dup2(said.fileno(), 2)
            yield complaints
        finally:
            os.dup2(kept, 2)
            os.close(kept)
            said.seek(0)
            complaints += _COMPLAINT.findall(said.read())


def ffmpeg() -> str:
    """The ffmpeg program that comes with imageio."""
    import imageio_ffmpeg

    return imageio_ffmpeg.get_ffmpeg_exe()
