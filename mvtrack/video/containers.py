"""Whether the elements of a file fit into each other: demuxers skip what does not, without a word."""

import math
import mmap
import zlib
from dataclasses import dataclass
from pathlib import Path

_SEGMENT, _CLUSTER, _VOID, _CRC = 0x18538067, 0x1F43B675, 0xEC, 0xBF
# Matroska's elements of a segment (SeekHead, Info, Tracks, Cues, Attachments, Chapters, Tags) and of a cluster
_IN_SEGMENT = {0x114D9B74, 0x1549A966, 0x1654AE6B, 0x1C53BB6B, 0x1941A469, 0x1043A770, 0x1254C367, _VOID, _CRC}
_IN_CLUSTER = {0xE7, 0x5854, 0xA7, 0xAB, 0xA3, 0xA0, 0xAF, _VOID, _CRC}


@dataclass(frozen=True)
class Breakage:
    """what: is broken. start: the byte from which on packets are not to be trusted, infinite where it is not known."""

    what: str
    start: float = math.inf


def find_breakage(path: Path, container: str) -> Breakage | None:
    """Of a Matroska or AVI file; None when it is whole or of another kind."""
    if not container.startswith(("matroska", "avi")):
        return None
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        return _in_avi(data) if container == "avi" else _in_matroska(data)


def _cut_off(length: int, stated: float) -> Breakage:
    return Breakage(f"it is cut off, {stated - length:.0f} bytes are missing", length)


def _in_avi(data: mmap.mmap) -> Breakage | None:
    """Its RIFF chunks state their lengths, 0 where writing was not finished."""
    at = 0
    while data[at : at + 4] == b"RIFF":
        length = int.from_bytes(data[at + 4 : at + 8], "little")
        at += 8 + length
        if length == 0 or at > len(data):
            return _cut_off(len(data), at) if length else None
        at += length % 2
    return None


def _in_matroska(data: mmap.mmap) -> Breakage | None:
    """Elements must be known where they stand and lie within the one that holds them; clusters may have checksums."""
    at, before, stated, cluster_ends, in_segment, found = 0, 0, math.inf, 0.0, False, None
    while at < min(stated, len(data)):
        element, size, start = _element(data, at)
        if not in_segment or element == _CLUSTER and (at >= cluster_ends or cluster_ends == math.inf):
            if element == _SEGMENT:
                in_segment, stated = True, start + size
            elif element == _CLUSTER:
                cluster_ends = start + size
            before, at = at, start if in_segment else start + size  # after the header
            continue
        in_cluster = at < cluster_ends and not (cluster_ends == math.inf and element in _IN_SEGMENT - _IN_CLUSTER)
        cluster_ends = cluster_ends if in_cluster else 0.0
        known, ends = (_IN_CLUSTER, cluster_ends) if in_cluster else (_IN_SEGMENT, stated)
        if element not in known or start + size > min(ends, len(data)):
            cut = math.inf > stated > len(data) and element in known and start + size <= ends
            if cut:
                return Breakage(_cut_off(len(data), stated).what, at)
            return Breakage(f"its data is broken near byte {at}", before)  # the element before may have lost some
        if element == _CRC and in_cluster and not _checksum_is_right(data, start, cluster_ends):
            found = found or Breakage(f"the checksum of the data after byte {at} is wrong")
        before, at = at, start + size
    return _cut_off(len(data), stated) if math.inf > stated > len(data) else found


def _checksum_is_right(data: mmap.mmap, start: int, ends: float) -> bool:
    """Of what follows a cluster's CRC-32."""
    if ends > len(data):  # cut off
        return True
    with memoryview(data) as view, view[start + 4 : int(ends)] as content:
        return zlib.crc32(content) == int.from_bytes(view[start : start + 4], "little")


def _element(data: mmap.mmap, at: int) -> tuple[int, float, int]:
    """Of EBML: identifier, size (infinite where it is not stated, or where there is no element), where its content
    begins."""
    head = data[at : at + 12]
    width = 9 - head[0].bit_length()
    if width > 4 or len(head) <= width or not head[width]:
        return 0, math.inf, at
    length = 9 - head[width].bit_length()
    size = int.from_bytes(head[width : width + length], "big") & (1 << 7 * length) - 1
    unknown = size == (1 << 7 * length) - 1
    return int.from_bytes(head[:width], "big"), math.inf if unknown else size, at + width + length
