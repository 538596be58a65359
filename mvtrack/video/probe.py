"""What a video file holds, read from its packets: which frames are presented and when, how they lie, what is damaged.

One quick pass without decoding, where container and codec let packets stand for frames; else every frame is decoded
once. PyAV applies edit lists and marks the packets that only lead up to the first presented frame.
"""

from dataclasses import dataclass, field, replace
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Bool, Float, Int

from mvtrack.video.color import ColorSpace
from mvtrack.video.containers import Breakage, find_breakage
from mvtrack.video.packets import clean_keyframe, is_idr, is_whole
from mvtrack.video.ticks import DEFAULT_FPS

if TYPE_CHECKING:
    import av

MAX_SIDE = 16384
MAX_PIXEL_ASPECT = 10  # beyond that it is an error in the file
_INDEXED = ("mov,mp4", "matroska", "mpegts")  # containers whose packets all have times and can be sought
_ONE_FRAME_A_PACKET = {"h264", "hevc", "vp9", "av1", "prores", "mjpeg", "dnxhd", "ffv1", "png", "mpeg2video"}
_INTERLACED = (2, 3, 4, 5)  # AVFieldOrder: top or bottom field coded or shown first
_ALPHA_DECODERS = {"vp8": "libvpx", "vp9": "libvpx-vp9"}  # ffmpeg's own decoders of these drop alpha
_UNREADABLE = "it is damaged, not a video, or of an unknown codec"
_LEADING = 16  # packets among which the first keyframe's leading pictures are looked for


@dataclass(frozen=True)
class Orientation:
    """How a stored picture is turned for display: first transposed, then mirrored."""

    transpose: bool = False
    flip_x: bool = False
    flip_y: bool = False

    @classmethod
    def of_matrix(cls, matrix: Int[np.ndarray, "9"]) -> "Orientation":
        """Of a display matrix (row vectors, 16.16 fixed point). Turns by other than quarter circles are left out."""
        a, b, c, d = matrix[0], matrix[1], matrix[3], matrix[4]
        if abs(int(b)) > abs(int(a)):
            return cls(True, bool(c < 0), bool(b < 0))
        return cls(False, bool(a < 0), bool(d < 0))

    def apply(self, picture: np.ndarray) -> np.ndarray:
        """(H, W, C) as stored to (H, W, C) as displayed."""
        picture = picture.transpose(1, 0, 2) if self.transpose else picture
        return picture[:: -1 if self.flip_y else 1, :: -1 if self.flip_x else 1]

    def size(self, size: tuple[int, int]) -> tuple[int, int]:
        """(H, W) of a stored size as displayed, and the other way round."""
        return size[::-1] if self.transpose else size


@dataclass(frozen=True)
class VideoProbe:
    """N presented frames, in the order of display.

    times_s: of each on the file's clock. pts: their time stamps, None where they cannot be relied on and frames have to
    be counted from the file's beginning. keyframes, seek_to: frames at which decoding can begin, and the time stamp
    that leads there. size: (H, W) as stored. good: how many can be decoded before `damage`, None: all. decoder: its
    name. packet_sizes: bytes of each packet by its time stamp.
    """

    path: Path
    container: str
    codec: str
    decoder: str
    size: tuple[int, int]
    pixel_format: str
    times_s: Float[np.ndarray, "N"]
    pts: Int[np.ndarray, "N"] | None
    keyframes: Int[np.ndarray, "K"]
    seek_to: Int[np.ndarray, "K"]
    is_closed: bool  # no picture after a keyframe is displayed before it
    resets: bool  # every keyframe makes decoders forget all that came before
    has_preroll: bool  # packets that are decoded and not shown
    fps_candidates: tuple[float, ...]  # rates that the file states
    color: ColorSpace
    pixel_aspect: Fraction = Fraction(1)
    orientation: Orientation = field(default_factory=Orientation)
    is_interlaced: bool = False
    has_alpha: bool = False
    has_sound: bool = False
    container_start_s: float = 0.0
    last_duration_s: float | None = None
    resolution_s: float = 0.0  # to which times are rounded
    damage: str | None = None
    good: int | None = None
    stated: int = 0
    packet_sizes: dict[int, int] = field(default_factory=dict, repr=False)

    def __len__(self) -> int:
        return len(self.times_s)

    @property
    def square_size(self) -> tuple[int, int]:
        """(H, W) as stored, with square pixels: the shorter side of a pixel is stretched."""
        height, width = self.size
        aspect = self.pixel_aspect
        return (height, round(width * aspect)) if aspect >= 1 else (round(height / aspect), width)

    @property
    def display_size(self) -> tuple[int, int]:
        """(H, W) as players show it."""
        return self.orientation.size(self.square_size)

    def truncated(self, count: int) -> "VideoProbe":
        """The first frames alone."""
        keep = self.keyframes < count
        return replace(
            self, times_s=self.times_s[:count], pts=None if self.pts is None else self.pts[:count],
            keyframes=self.keyframes[keep], seek_to=self.seek_to[keep], last_duration_s=None,
        )  # fmt: skip


@dataclass
class _Packets:
    """A stream's packets in the order of decoding. pts is NO_TIME where it is missing."""

    pts: Int[np.ndarray, "P"]
    dts: Int[np.ndarray, "P"]
    key: Bool[np.ndarray, "P"]
    clean: Bool[np.ndarray, "P"]
    resets: Bool[np.ndarray, "P"]
    discard: Bool[np.ndarray, "P"]
    whole: Bool[np.ndarray, "P"]
    sizes: Int[np.ndarray, "P"]
    last_duration: int | None


NO_TIME = np.iinfo(np.int64).min


def probe_video(path: Path, decode_all: bool = False) -> VideoProbe:
    """Look at a video file. decode_all: decode every frame once, which finds all damage; needed for some files anyway.

    Raises ValueError that names the file when it is no video.
    """
    import av

    try:
        with open_container(path) as container:
            stream = video_stream(container, path)
            broken = find_breakage(path, container.format.name)
            first, packets = _read_packets(stream, path, broken)
            found = _describe(path, container, stream, packets, first)
            damage = broken.what if broken else _truncation(path, stream)
        if damage or not packets.whole.all():
            found = replace(found, damage=damage or "the data of some frames is broken")
        if decode_all or found.damage or len(found) == 0 or not _packets_are_frames(found, packets):
            found = _decode_all(found, packets, _can_seek(found, packets))
    except (av.error.FFmpegError, OSError, UnicodeError, OverflowError, MemoryError) as error:
        raise ValueError(f"cannot read {path} as a video: {_UNREADABLE}") from error
    if len(found) == 0:
        raise ValueError(f"{path} is damaged: not one frame can be decoded")
    _check_sides(path, found.display_size)
    return found


def open_container(path: Path) -> "av.container.InputContainer":
    """PyAV's container of a file."""
    import av

    return av.open(f"file:{path}", metadata_errors="ignore")


def video_stream(container: "av.container.InputContainer", path: Path) -> "av.video.VideoStream":
    """The first one that is not a cover picture."""
    from av.stream import Disposition

    streams = [s for s in container.streams.video if s.codec_context and Disposition.attached_pic not in s.disposition]
    if not streams:
        raise ValueError(f"cannot read {path} as a video: it holds no moving picture")
    return streams[0]


def _read_packets(
    stream: "av.video.VideoStream", path: Path, broken: Breakage | None
) -> tuple["av.VideoFrame | None", _Packets]:
    """All packets, and the first frame, decoded on the way."""
    import av

    context, first, rows, duration, tries = stream.codec_context, None, [], None, 0
    context.thread_count = 1
    extradata = context.extradata or b""
    has_lengths = len(extradata) > 22 and extradata[0] == 1 or context.name == "h264" and extradata[:1] == b"\1"
    for packet in stream.container.demux(stream):
        if not packet.size:
            continue
        is_key = packet.is_keyframe
        data = memoryview(packet) if context.name in ("h264", "hevc") else None
        whole = not packet.is_corrupt and (data is None or not has_lengths or is_whole(data, context.name, extradata))
        whole &= broken is None or (packet.pos or 0) < broken.start
        clean = is_key and (data is None or clean_keyframe(data, context.name, has_lengths))
        resets = is_key and (data is None or is_idr(data, context.name, has_lengths))
        pts, dts = packet.pts, packet.dts
        times = (NO_TIME if pts is None else pts, NO_TIME if dts is None else dts)
        rows.append((*times, is_key, clean, resets, packet.is_discard, whole, packet.size))
        duration = packet.duration
        if first is None and tries < 200:
            tries += 1
            try:
                first = next(iter(context.decode(packet)), None)
            except av.error.FFmpegError:
                continue
    if not rows:
        raise ValueError(f"cannot read {path} as a video: {_UNREADABLE}")
    if first is None:
        try:
            first = next(iter(context.decode(None)), None)
        except av.error.FFmpegError:
            first = None
    columns = [np.array(column) for column in zip(*rows, strict=True)]
    return first, _Packets(*columns, last_duration=duration or None)


def _describe(path: Path, container, stream, packets: _Packets, first: "av.VideoFrame | None") -> VideoProbe:
    """Everything that needs no decoding but the first frame's."""
    context = stream.codec_context
    shown = _presented(packets)
    order = np.argsort(packets.pts[shown], kind="stable")
    pts = packets.pts[shown][order]
    rank = np.empty(len(order), np.int64)
    rank[order] = np.arange(len(order))
    keys = np.flatnonzero(packets.clean[shown])
    seek_to = np.where(packets.dts == NO_TIME, packets.pts, np.minimum(packets.dts, packets.pts))[shown][keys]
    by_time = np.argsort(rank[keys], kind="stable")
    alpha_decoder = _ALPHA_DECODERS.get(context.name) if stream.metadata.get("alpha_mode") == "1" else None
    pixel_format = (first.format.name if first else context.pix_fmt) or "unknown"
    size = (first.height, first.width) if first else (context.height, context.width)
    base = stream.time_base
    rates = [r for r in (stream.guessed_rate, stream.average_rate, stream.base_rate) if r]
    return VideoProbe(
        path=path, container=container.format.name, codec=context.name, decoder=alpha_decoder or context.name,
        size=size, pixel_format=pixel_format, times_s=pts * float(base), pts=pts,
        keyframes=rank[keys][by_time], seek_to=seek_to[by_time], is_closed=_is_closed(packets),
        resets=bool(packets.resets[packets.key].all()),
        has_preroll=bool(packets.discard.any()), fps_candidates=tuple(dict.fromkeys(map(float, rates))),
        color=ColorSpace.of(first if first else context), pixel_aspect=_pixel_aspect(stream),
        orientation=_orientation(first), is_interlaced=context.field_order in _INTERLACED or _interlaced(first),
        has_alpha=bool(alpha_decoder) or _has_alpha(pixel_format), has_sound=bool(container.streams.audio),
        container_start_s=(container.start_time or 0) / 1e6,
        stated=len(order) if packets.discard.any() else max(len(order), stream.frames),
        last_duration_s=None if packets.last_duration is None else float(packets.last_duration * base),
        resolution_s=float(base), packet_sizes=dict(zip(packets.pts.tolist(), packets.sizes.tolist(), strict=True)),
    )  # fmt: skip


def _presented(packets: _Packets) -> Bool[np.ndarray, "P"]:
    """Packets that become frames: not those of an edit list's lead, nor those before the first keyframe."""
    shown = ~packets.discard
    if packets.key.any():
        shown[: int(packets.key.argmax())] = False
    return shown


def _is_closed(packets: _Packets) -> bool:
    """Whether every picture after a keyframe, in the order of decoding, is displayed after it too."""
    latest = np.maximum.accumulate(np.where(packets.key, packets.pts, NO_TIME))
    return bool((packets.pts >= latest).all())


def _packets_are_frames(found: VideoProbe, packets: _Packets) -> bool:
    """Whether the pass over packets alone tells which frames there are."""
    leads = packets.key[0] and (packets.pts[:_LEADING] >= packets.pts[0]).all()
    return bool(_can_seek(found, packets) and found.codec in _ONE_FRAME_A_PACKET and leads)


def _can_seek(found: VideoProbe, packets: _Packets) -> bool:
    timed = (packets.pts != NO_TIME).all() and len(np.unique(found.pts)) == len(found.pts)
    return bool(timed and found.container.startswith(_INDEXED) and len(found.keyframes))


def _truncation(path: Path, stream: "av.video.VideoStream") -> str | None:
    """Whether an index points behind the file's end."""
    if not stream.container.format.name.startswith("mov,mp4"):
        return None
    size = path.stat().st_size
    last = max((entry.pos + entry.size for entry in stream.index_entries), default=0)
    return f"it is cut off, {last - size} bytes are missing" if last > size else None


def _decode_all(found: VideoProbe, packets: _Packets, can_seek: bool) -> VideoProbe:
    """The frames that really come out, and where damage begins."""
    from mvtrack.video.decode import decode_every_frame

    broken = None if packets.whole.all() else int(packets.whole.argmin())
    decoded = decode_every_frame(found, broken)
    pts, count = np.array([NO_TIME if t is None else t for t in decoded.pts], np.int64), len(decoded.pts)
    expected = found.pts if can_seek else None
    if decoded.error is None and not decoded.corrupt.any():
        damage, good = found.damage, count if found.damage else None
    else:
        first = int(decoded.corrupt.argmax()) if decoded.corrupt.any() else count
        good = min(first, count)
        if expected is not None:  # pictures shown earlier may be coded later, and built upon the damaged one
            for at in (decoded.damaged_pts, int(pts[good]) if good < count else None):
                good = min(good, _before_damage(packets, expected, at))
        damage = found.damage or "some frames cannot be decoded"
    if broken is not None:
        seen = (
            _before_damage(packets, expected, int(packets.pts[broken]))
            if expected is not None
            else decoded.before_broken
        )
        good = min(good, count if seen is None else seen)
    times = _filled_times(pts, decoded.time_base, (found.fps_candidates or (DEFAULT_FPS,))[0])
    seekable = can_seek and count > 0 and bool((np.diff(pts) > 0).all()) and bool(np.isin(pts, found.pts).all())
    if seekable:
        inside = np.isin(found.pts[found.keyframes], pts)
        keyframes, seek_to = np.searchsorted(pts, found.pts[found.keyframes[inside]]), found.seek_to[inside]
    else:
        keyframes = seek_to = np.zeros(0, np.int64)
    return replace(
        found, times_s=times, pts=pts if seekable else None, keyframes=keyframes, seek_to=seek_to,
        damage=damage, good=good, stated=max(count, found.stated),
    )  # fmt: skip


def _filled_times(pts: Int[np.ndarray, "N"], time_base: float, fps: float) -> Float[np.ndarray, "N"]:
    """Seconds, ascending; where time stamps are missing they follow their neighbours at the median interval. Stamps
    that do not ascend are not believed: the file's rate stands in for them."""
    known = np.flatnonzero(pts != NO_TIME)
    if len(known) < 2 or (np.diff(pts[known]) <= 0).any():
        return np.arange(len(pts)) / fps
    step = float(np.median(np.diff(pts[known]) / np.diff(known)))
    filled = np.interp(np.arange(len(pts)), known, pts[known])
    filled[: known[0]] = pts[known[0]] + step * (np.arange(known[0]) - known[0])
    filled[known[-1] + 1 :] = pts[known[-1]] + step * np.arange(1, len(pts) - known[-1])
    return filled * time_base


def _before_damage(packets: _Packets, pts: Int[np.ndarray, "N"], damaged: int | None) -> int:
    """How many frames are displayed before everything that is coded from a damaged packet on."""
    if damaged is None:
        return len(pts)
    at = int(np.flatnonzero(packets.pts == damaged)[0]) if (packets.pts == damaged).any() else len(packets.pts)
    return int(np.searchsorted(pts, packets.pts[at:].min())) if at < len(packets.pts) else len(pts)


def _pixel_aspect(stream: "av.video.VideoStream") -> Fraction:
    aspect = stream.sample_aspect_ratio or stream.codec_context.sample_aspect_ratio
    if not aspect or not 1 / MAX_PIXEL_ASPECT <= aspect <= MAX_PIXEL_ASPECT:
        return Fraction(1)
    return Fraction(aspect)


def _orientation(first: "av.VideoFrame | None") -> Orientation:
    for side in first.side_data if first else ():
        if side.type.name == "DISPLAYMATRIX":
            return Orientation.of_matrix(np.frombuffer(bytes(side), "<i4")[:9])
    return Orientation()


def _interlaced(first: "av.VideoFrame | None") -> bool:
    return bool(first) and bool(first.interlaced_frame)


def _has_alpha(pixel_format: str) -> bool:
    import av

    try:
        return any(part.is_alpha for part in av.VideoFormat(pixel_format).components)
    except ValueError:
        return False


def _check_sides(path: Path, size: tuple[int, int]) -> None:
    if not (1 <= size[0] <= MAX_SIDE and 1 <= size[1] <= MAX_SIDE):
        raise ValueError(f"{path} is {size[1]}x{size[0]} pixels; up to {MAX_SIDE} a side are read")
