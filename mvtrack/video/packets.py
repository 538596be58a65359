"""What the bytes of H.264 and HEVC packets tell without decoding: whether they are whole, where decoding can begin."""

from collections.abc import Iterator

_H264_IDR, _H264_SEI = 5, 6
_HEVC_IDR = (19, 20)
_RECOVERY_POINT = 6  # the SEI message that makes another picture than an IDR one a keyframe


def is_whole(data: memoryview, codec: str, extradata: bytes) -> bool:
    """Whether a packet of length-prefixed units (mp4, mkv) is exactly its units, none with a forbidden header."""
    width, at = (extradata[21 if codec == "hevc" else 4] & 3) + 1, 0
    while at + width < len(data):
        length = int.from_bytes(data[at : at + width], "big")
        if length == 0 or data[at + width] & 0x80:
            return False
        at += width + length
    return at == len(data)


def clean_keyframe(data: memoryview, codec: str, has_lengths: bool) -> bool:
    """Whether all that is displayed after a keyframe can be decoded from it: not so where a picture is refreshed bit by
    bit (recovery points with a frame count)."""
    if codec == "hevc":
        return True  # the demuxer marks IRAP pictures only
    for unit in _units(bytes(data[:4096]), has_lengths):
        kind = unit[0] & 0x1F
        if kind == _H264_IDR:
            return True
        if kind == _H264_SEI:
            for message, payload in _messages(unit[1:]):
                if message == _RECOVERY_POINT:
                    return bool(payload[:1] and payload[0] & 0x80)  # the count, Exp-Golomb coded, is 0
    return False


def is_idr(data: memoryview, codec: str, has_lengths: bool) -> bool:
    """Whether a keyframe makes decoders forget all that came before. Others (CRA, recovery points) may refer to it."""
    for unit in _units(bytes(data[:4096]), has_lengths):
        if unit[0] & 0x1F == _H264_IDR if codec == "h264" else unit[0] >> 1 & 0x3F in _HEVC_IDR:
            return True
    return False


def _messages(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Types and payloads of an SEI unit."""
    at = 0
    while at + 2 < len(data):
        values = []
        for _ in range(2):
            value = 0
            while at < len(data) and data[at] == 0xFF:
                value, at = value + 255, at + 1
            value, at = value + (data[at] if at < len(data) else 0), at + 1
            values.append(value)
        yield values[0], data[at : at + values[1]]
        at += values[1]


def _units(data: bytes, has_lengths: bool) -> Iterator[bytes]:
    if not has_lengths:
        yield from (part for part in data.split(b"\0\0\1")[1:] if part)
        return
    at = 0
    while at + 4 < len(data):
        length = int.from_bytes(data[at : at + 4], "big")
        if length:
            yield data[at + 4 : at + 4 + length]
        at += 4 + max(length, 1)
