"""TFRecord files of tf.train.Example, read without TensorFlow: framing with checksums, and the few messages in it.

A record is its length (8 bytes, little endian), a masked CRC-32C of these, its bytes, and a masked CRC-32C of them
(tensorflow.org/tutorials/load_data/tfrecord). Of protobuf only what an Example holds is decoded: maps from
a name to a list of bytes, floats or integers.
"""

import struct
from collections.abc import Iterator
from pathlib import Path

import numpy as np

_MASK = 0xA282EAD8
_HEADER, _FOOTER = 12, 4
_MAX_RECORD = 1 << 30
Values = list[bytes] | np.ndarray


def record_offsets(path: Path) -> list[int]:
    """Where the records of a file begin, by their headers alone. Raises ValueError for a file that is cut short."""
    offsets, at, size = [], 0, path.stat().st_size
    with path.open("rb") as file:
        while at < size:
            file.seek(at)
            length = _length(file.read(_HEADER), path, at)
            offsets.append(at)
            at += _HEADER + length + _FOOTER
            if at > size:
                raise ValueError(f"{path} is cut short: record {len(offsets) - 1} ends at byte {at}, it at {size}")
    return offsets


def read_example(path: Path, offset: int) -> dict[str, Values]:
    """The features of the record at an offset, by name. Raises ValueError where its checksum or a message is wrong."""
    with path.open("rb") as file:
        file.seek(offset)
        length = _length(file.read(_HEADER), path, offset)
        body = file.read(length + _FOOTER)
    if len(body) != length + _FOOTER or _masked_crc(body[:length]) != struct.unpack("<I", body[length:])[0]:
        raise ValueError(f"{path} is damaged: the checksum of the record at byte {offset} is wrong")
    try:
        return dict(_features(memoryview(body)[:length]))
    except (IndexError, ValueError, UnicodeDecodeError, struct.error) as error:
        raise ValueError(f"{path}: the record at byte {offset} is no tf.train.Example ({error})") from None


def _length(header: bytes, path: Path, offset: int) -> int:
    if len(header) != _HEADER or _masked_crc(header[:8]) != struct.unpack("<I", header[8:])[0]:
        raise ValueError(f"{path} is no TFRecord file, or is damaged: the header at byte {offset} has a wrong checksum")
    length = struct.unpack("<Q", header[:8])[0]
    if length > _MAX_RECORD:
        raise ValueError(f"{path}: the record at byte {offset} has {length} bytes, expected at most {_MAX_RECORD}")
    return length


def _masked_crc(content: bytes) -> int:
    import google_crc32c

    crc = google_crc32c.value(content)
    return (((crc >> 15) | (crc << 17)) + _MASK) & 0xFFFFFFFF


def _features(example: memoryview) -> Iterator[tuple[str, Values]]:
    for features in _messages(example, 1):
        for entry in _messages(features, 1):
            (name,), (feature,) = _messages(entry, 1), _messages(entry, 2)
            yield bytes(name).decode(), _values(feature)


def _values(feature: memoryview) -> Values:
    fields = dict(_fields(feature))
    if 1 in fields:
        return [bytes(each) for each in _messages(fields[1], 1)]
    if 2 in fields:  # packed or one by one: the same bytes
        return np.frombuffer(b"".join(bytes(each) for each in _messages(fields[2], 1)), "<f4").copy()
    packed = list(_fields(fields[3])) if 3 in fields else []
    return np.array([n for _, part in packed for n in ([part] if isinstance(part, int) else _varints(part))], np.int64)


def _messages(message: memoryview, number: int) -> list[memoryview]:
    return [content for found, content in _fields(message) if found == number and not isinstance(content, int)]


def _fields(message: memoryview) -> Iterator[tuple[int, memoryview | int]]:
    """Number and content of every field: bytes, or the value of a varint."""
    at = 0
    while at < len(message):
        tag, at = _varint(message, at)
        kind = tag & 7
        if kind == 0:
            content, at = _varint(message, at)
            yield tag >> 3, _signed(content)
            continue
        length, at = _varint(message, at) if kind == 2 else ({1: 8, 5: 4}.get(kind, -1), at)
        if length < 0 or at + length > len(message):
            raise ValueError("a field ends beyond its message")
        yield tag >> 3, message[at : at + length]
        at += length


def _varints(packed: memoryview) -> Iterator[int]:
    at = 0
    while at < len(packed):
        value, at = _varint(packed, at)
        yield _signed(value)


def _varint(message: memoryview, at: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        byte = message[at]
        value, at = value | (byte & 127) << shift, at + 1
        if byte < 128:
            return value, at
    raise ValueError("a number of more than ten bytes")


def _signed(value: int) -> int:
    return value - (1 << 64) if value >> 63 else value
