"""Decoded frames of a probed file, by their number in the order of display, from the front or from a keyframe on."""

import contextlib
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Bool, UInt8

from mvtrack.video.probe import VideoProbe
from mvtrack.video.stream import SeekError, Stream

if TYPE_CHECKING:
    import av

_LEAD = 2  # frames before the one that is asked for, which deinterlacing looks at
_TIME_BASE = Fraction(1, 1000)  # of frames that have none; frames are counted, not timed
_SKIP = 16  # frames that are decoded and passed over rather than sought past


class DamagedError(ValueError):
    """A frame that the probe promised does not come out of the decoder."""


@dataclass(frozen=True)
class Decoded:
    """All frames of a file, in the order of display: time stamps (None where there is none), and which are marked as
    broken. error: why it ended early. damaged_pts: time stamp of the packet at which it did. before_broken: how many
    came out before the first broken packet went in."""

    pts: list[int | None]
    corrupt: Bool[np.ndarray, "N"]
    time_base: float
    error: str | None = None
    damaged_pts: int | None = None
    before_broken: int | None = None


def decode_every_frame(probe: VideoProbe, first_broken: int | None = None) -> Decoded:
    """Decode a file from its front to its end, or to what cannot be decoded. first_broken: number of a packet."""
    import av

    source = Stream(probe, may_be_damaged=True)
    pts, corrupt, error, at, before_broken = [], [], None, None, None

    def keep(frames: list["av.VideoFrame"]) -> None:
        for frame in frames:
            if pts or not frame.is_corrupt:  # what leads up to the first whole frame of a cut file is not shown
                pts.append(frame.pts)
                corrupt.append(frame.is_corrupt)

    with source.container:
        try:
            for number, packet in enumerate(source.packets()):
                at = packet.pts
                if number == first_broken:
                    before_broken = len(pts)
                keep(source.decode(packet))
        except av.error.FFmpegError as problem:
            error = str(problem)
            with contextlib.suppress(av.error.FFmpegError):
                keep(source.decode(None))
        base = float(source.stream.time_base)
        return Decoded(pts, np.array(corrupt, bool), base, error, at if error else None, before_broken)


class Decoder:
    """Frames of a probed file in ascending order; going back, or far ahead, begins at a keyframe or at the front.

    is_suspect: there may be damage that the probe has not found. Raises DamagedError where a frame is missing.
    """

    def __init__(self, probe: VideoProbe, is_suspect: bool = False) -> None:
        self.probe = probe
        self._may_be_damaged = bool(is_suspect or probe.damage or probe.codec == "ffv1")  # FFV1 conceals without a word
        self._frames: Iterator[tuple[int, av.VideoFrame]] | None = None
        self._next = 0
        self._container = None
        self._can_seek = True

    def frame(self, index: int) -> "av.VideoFrame":
        """One frame, deinterlaced where the file is interlaced."""
        if self._frames is None or index < self._next or self._keyframe(index)[0] > self._next + _SKIP:
            self._begin(index)
        try:
            for at, frame in self._frames:
                self._next = at + 1
                if at == index:
                    return frame
                if at > index:
                    break
        except SeekError:
            self._can_seek = False
            self._begin(index)
            return self.frame(index)
        self.close()
        raise DamagedError(f"{self.probe.path} is damaged: frame {index} cannot be decoded")

    def close(self) -> None:
        """Let go of the file."""
        if self._frames is not None:
            self._frames.close()
        if self._container is not None:
            self._container.close()
        self._frames = self._container = None

    def _keyframe(self, index: int) -> tuple[int, int | None]:
        """The last frame from which one can be reached, and where to seek for it (None: the front)."""
        index -= _LEAD if self.probe.is_interlaced else 0
        at = int(np.searchsorted(self.probe.keyframes, index, side="right")) - 1
        if at < 0 or self.probe.keyframes[at] == 0 or not self._can_seek:
            return 0, None
        return int(self.probe.keyframes[at]), int(self.probe.seek_to[at])

    def _begin(self, index: int) -> None:
        """Start at the nearest keyframe; where the file's seeking leads elsewhere, at its front."""
        first, seek_to = self._keyframe(index)
        for place in [seek_to, None] if seek_to is not None else [None]:
            self.close()
            start = first if place is not None else 0
            frames = self._numbered(place, start)
            try:
                head = next(frames, None)
            except SeekError:
                head = None
            if head is not None and (head[0] == start or place is None):
                self._next = head[0]
                self._frames = _chained(head, frames)
                if self.probe.is_interlaced:
                    self._frames = _deinterlaced(self._frames)
                return
            frames.close()
        self.close()
        raise DamagedError(f"{self.probe.path} is damaged: its first frame cannot be decoded")

    def _numbered(self, seek_to: int | None, start: int) -> Iterator[tuple[int, "av.VideoFrame"]]:
        """(number, frame) from `start` on. Frames that the probe does not know are passed over."""
        source = Stream(self.probe, self._may_be_damaged)
        self._container = source.container
        if seek_to is not None:
            source.seek(seek_to)
        pts, at, began = self.probe.pts, 0, False
        for frame in _decoded(source):
            if pts is None:
                began = began or not frame.is_corrupt
                if began:
                    yield at, frame
                    at += 1
                continue
            if frame.pts is None or frame.is_corrupt:
                continue
            at = int(np.searchsorted(pts, frame.pts))
            if at < len(pts) and pts[at] == frame.pts and at >= start:
                yield at, frame

    def __del__(self) -> None:
        self.close()


def _decoded(source: Stream) -> Iterator["av.VideoFrame"]:
    """Frames up to the end or to the first that cannot be decoded."""
    import av

    try:
        for packet in source.packets():
            yield from source.decode(packet)
    except av.error.FFmpegError:
        with contextlib.suppress(av.error.FFmpegError):
            yield from source.decode(None)


def _chained(head, rest: Iterator) -> Iterator:
    yield head
    yield from rest


def _deinterlaced(frames: Iterator[tuple[int, "av.VideoFrame"]]) -> Iterator[tuple[int, "av.VideoFrame"]]:
    """Every frame marked as interlaced rebuilt at full height (bwdif), one for one."""
    import av

    graph, waiting = None, deque()
    for number, frame in frames:
        if graph is None:
            graph = _bwdif(frame)
        graph.push(frame)
        waiting.append(number)
        yield from _pulled(graph, waiting)
    if graph is not None:
        with contextlib.suppress(av.error.FFmpegError):
            graph.push(None)
        yield from _pulled(graph, waiting)


def _bwdif(frame: "av.VideoFrame"):
    import av

    graph = av.filter.Graph()
    base = frame.time_base or _TIME_BASE
    source = graph.add_buffer(width=frame.width, height=frame.height, format=frame.format, time_base=base)
    deinterlace, sink = graph.add("bwdif", "mode=send_frame:deint=interlaced"), graph.add("buffersink")
    source.link_to(deinterlace)
    deinterlace.link_to(sink)
    graph.configure()
    return graph


def _pulled(graph, waiting: deque) -> Iterator[tuple[int, "av.VideoFrame"]]:
    import av

    while waiting:
        try:
            frame = graph.pull()
        except (av.error.BlockingIOError, av.error.EOFError):
            return
        yield waiting.popleft(), frame


def picture(
    frame: "av.VideoFrame", probe: VideoProbe, size: tuple[int, int] | None = None
) -> UInt8[np.ndarray, "H W 3"]:
    """A frame as players show it, of (H, W) as displayed (None: `display_size`): square pixels, upright, over black,
    BT.709."""
    from av.video.reformatter import Interpolation

    height, width = probe.square_size if size is None else probe.orientation.size(size)
    deep = not probe.color.is_ordinary
    kind = ("rgba64le" if deep else "rgba") if probe.has_alpha else "rgb48le" if deep else "rgb24"
    same = (height, width) == (frame.height, frame.width)
    scaled = frame.reformat(width, height, kind, interpolation=None if same else Interpolation.BICUBIC)
    whole = scaled.to_ndarray()
    array = probe.color.to_bt709(whole[..., :3]) if deep else whole[..., :3]
    if probe.has_alpha:
        alpha, most = whole[..., 3:].astype(np.uint32), np.iinfo(whole.dtype).max
        array = ((array * alpha + most // 2) // most).astype(np.uint8)
    return probe.orientation.apply(array)
