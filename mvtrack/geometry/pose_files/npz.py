"""Arrays of an .npz or .npy file, read without numpy's own loader, which trusts sizes and may unpickle.

Only what an array's header declares and its bytes hold together is accepted, no member may unpack to more than
`MAX_MEMBER_BYTES`, and members that nobody asks for (pictures, depth) are never unpacked.
"""

import contextlib
import math
import os
import re
import struct
import sys
import zipfile
import zlib
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path

import numpy as np
from torch import Tensor

from mvtrack.geometry.pose_files.parse import MAX_NAME, Place, numbers, place_of, show

MAX_MEMBER_BYTES = 16 << 20
_MAX_DIRECTORY_BYTES = 64 << 10  # a few hundred members: room for other arrays beside the poses
_END, _END_ZIP64 = b"PK\x05\x06", b"PK\x06\x07"
_END_BYTES, _LOCATOR_BYTES = 22, 20
_ENCRYPTED = 1
_MAX_HEADER = 1000
_HEADER = re.compile(
    r"\{'descr': '([<>|=]?)([fiubU])([0-9]{1,6})', 'fortran_order': (True|False), 'shape': \(([0-9, ]{0,60})\),? *\}\s*"
)


@contextlib.contextmanager
def _zip_errors(place: Place) -> Iterator[None]:
    """Everything that the zip module raises for damaged bytes, as one error that names the place."""
    try:
        yield
    except (zipfile.BadZipFile, zlib.error, NotImplementedError, RuntimeError, EOFError, OSError, struct.error,
            ValueError, LookupError, OverflowError) as error:  # fmt: skip
        raise place.error(f"is not a readable npz archive ({show(str(error) or type(error).__name__)[1:-1]})") from None


class NpzFile:
    """The members of an archive; each is unpacked when it is asked for."""

    def __init__(self, path: Path | str):
        self.path, self.place = path, place_of(path)

    @cached_property
    def _members(self) -> list[zipfile.ZipInfo]:
        """Raises ValueError for a list of members that would take long to read, before the zip module reads it."""
        with _zip_errors(self.place), open(self.path, "rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - _END_BYTES - 0xFFFF - _LOCATOR_BYTES))
            tail = file.read()
        end = tail.rfind(_END)
        if end < 0 or end + _END_BYTES > len(tail):
            raise self.place.error("is not an npz archive (its end record is missing: truncated?)")
        (directory_bytes,) = struct.unpack_from("<L", tail, end + 12)
        if directory_bytes > _MAX_DIRECTORY_BYTES or tail[max(0, end - _LOCATOR_BYTES) :].startswith(_END_ZIP64):
            raise self.place.error(f"its list of members is too long, expected at most {_MAX_DIRECTORY_BYTES} bytes")
        with _zip_errors(self.place), zipfile.ZipFile(self.path) as archive:
            return archive.infolist()

    @cached_property
    def names(self) -> list[str]:
        return [info.filename.removesuffix(".npy") for info in self._members]

    def has(self, *names: str) -> bool:
        return set(names) <= set(self.names)

    def array(self, name: str) -> np.ndarray | list | str:
        """An array of numbers; text, or a list of it, where the member holds that."""
        return decode_array(self.content(name), self.place.field(name))

    def numbers(self, name: str, *shapes: tuple[int | None, ...]) -> Tensor:
        """An array of one of these shapes (None: any side), as float64."""
        return numbers(self.array(name), self.place.field(name), *shapes)

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape that a member's header declares; the member itself may be of any size."""
        content = self.content(name, _MAX_HEADER)
        _, header = _header(content, self.place.field(name))
        return _sides(header[4])

    def content(self, name: str, most: int | None = None) -> bytes:
        """The bytes of a member, or its first `most`."""
        infos = [info for info, known in zip(self._members, self.names, strict=True) if known == name]
        place = self.place.field(name)
        if len(infos) != 1:
            raise place.error("is in the archive twice" if infos else "is missing")
        info = infos[0]
        if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED) or info.flag_bits & _ENCRYPTED:
            raise place.error("is encrypted or compressed in an unusual way, expected what numpy.savez writes")
        if most is None and info.file_size > MAX_MEMBER_BYTES:
            raise place.error(f"unpacks to {info.file_size} bytes, expected at most {MAX_MEMBER_BYTES}")
        with _zip_errors(self.place), zipfile.ZipFile(self.path) as archive, archive.open(info) as member:
            return member.read(most or info.file_size + 1)  # a read without a number would unpack all of a bomb


def decode_array(content: bytes, place: Place) -> np.ndarray | list | str:
    """The array that an .npy file holds: numbers, text, or a list of text."""
    start, (order, kind, width, fortran, shape) = _header(content, place)
    try:
        dtype = np.dtype(f"{order}{kind}{width}")
        sides = _sides(shape)
    except (TypeError, ValueError):
        raise place.error(f"has the type {show(kind + width)}, expected an array of numbers or text") from None
    expected = math.prod(sides) * dtype.itemsize
    if dtype.itemsize == 0 or expected != len(content) - start:
        raise place.error(f"holds {len(content) - start} bytes, expected {expected} for {sides} of {dtype}")
    values = np.frombuffer(content, dtype, offset=start) if expected else np.empty(0, dtype)
    values = values.reshape(sides, order="F" if fortran == "True" else "C")
    return _text(values, place) if kind == "U" else values


def _header(content: bytes, place: Place) -> tuple[int, tuple[str, ...]]:
    """Where the numbers start, and byte order, kind, width, order of axes and shape."""
    if len(content) < 10 or content[:6] != b"\x93NUMPY" or content[6] not in (1, 2):
        raise place.error("is not an array in numpy's .npy format")
    start = 10 if content[6] == 1 else 12
    length = int.from_bytes(content[8:start], "little")
    text = content[start : start + length].decode("latin-1")
    header = _HEADER.fullmatch(text) if length <= _MAX_HEADER else None
    if header is None:
        raise place.error(f"has the header {show(text)}, expected an array of numbers or text")
    return start + length, header.groups()


def _sides(shape: str) -> tuple[int, ...]:
    return tuple(int(side) for side in shape.replace(" ", "").split(",") if side)


def _text(values: np.ndarray, place: Place) -> list | str:
    if values.ndim > 1 or values.dtype.itemsize > 4 * MAX_NAME:
        raise place.error(f"expected a text or a list of texts, got {values.dtype} of {values.shape}")
    values = values.astype(values.dtype.newbyteorder("="))
    if values.size and np.atleast_1d(values).view(np.uint32).max() > sys.maxunicode:  # numpy: a SystemError
        raise place.error("holds characters that do not exist")
    return values.tolist()
