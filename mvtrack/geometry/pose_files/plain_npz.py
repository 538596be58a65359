"""Plain arrays as .npz: a zip of .npy members, read without numpy's own loader, which trusts sizes and may unpickle.

Only what a member's header declares and its bytes hold together is accepted, and no member may unpack to more than
`MAX_MEMBER_BYTES`.
"""

import contextlib
import io
import math
import re
import struct
import sys
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from mvtrack.geometry.pose_files.options import ReadOptions
from mvtrack.geometry.pose_files.parse import MAX_NAME, Place, check_name, number, place_of, read_bytes, show, side_px
from mvtrack.geometry.pose_files.plain import CONVENTION, FIELDS, PlainArrays, assemble, full_poses, pose_key
from mvtrack.geometry.pose_files.plain import OPTIONS as PLAIN_OPTIONS
from mvtrack.geometry.pose_files.sequence import CameraSequence

OPTIONS = PLAIN_OPTIONS
MAX_FILE_BYTES = 32 << 20
MAX_MEMBER_BYTES = 16 << 20
_MAX_DIRECTORY_BYTES = 64 << 10  # a few hundred members: room for other arrays beside the poses
_END, _END_ZIP64 = b"PK\x05\x06", b"PK\x06\x07"
_END_BYTES, _LOCATOR_BYTES = 22, 20
_ENCRYPTED = 1
_HEADER = re.compile(
    r"\{'descr': '([<>|=]?)([fiubU])([0-9]{1,6})', 'fortran_order': (True|False), 'shape': \(([0-9, ]{0,60})\),? *\}\s*"
)


def read(path: Path, options: ReadOptions) -> CameraSequence:
    """The arrays of a file; fields as in `plain`, size as (height, width)."""
    place = place_of(path)
    content = read_bytes(path, MAX_FILE_BYTES)
    _check_directory(content, place)
    with _zip_errors(place):
        archive = zipfile.ZipFile(io.BytesIO(content))
    arrays = {
        info.filename.removesuffix(".npy"): _member(archive, info, place.field(info.filename))
        for info in _members(archive, place)
    }
    names = [info.filename.removesuffix(".npy") for info in archive.infolist()]
    ignored = [name for name in names if name not in FIELDS]
    return assemble(_arrays(arrays, ignored, place), options, place, "npz")


@contextlib.contextmanager
def _zip_errors(place: Place) -> Iterator[None]:
    """Everything that the zip module raises for damaged bytes, as one error that names the place."""
    try:
        yield
    except (zipfile.BadZipFile, zlib.error, NotImplementedError, RuntimeError, EOFError, OSError, struct.error,
            ValueError, LookupError, OverflowError) as error:  # fmt: skip
        raise place.error(f"is not a readable npz archive ({show(str(error) or type(error).__name__)[1:-1]})") from None


def _check_directory(content: bytes, place: Place) -> None:
    """Refuse a list of members that would take long to read, before the zip module reads it."""
    end = content.rfind(_END, max(0, len(content) - _END_BYTES - 0xFFFF))
    if end < 0 or end + _END_BYTES > len(content):
        raise place.error("is not an npz archive (its end record is missing: truncated?)")
    (directory_bytes,) = struct.unpack_from("<L", content, end + 12)
    if directory_bytes > _MAX_DIRECTORY_BYTES or content[end - _LOCATOR_BYTES :].startswith(_END_ZIP64):
        raise place.error(f"its list of members is too long, expected at most {_MAX_DIRECTORY_BYTES} bytes")


def _members(archive: zipfile.ZipFile, place: Place) -> list[zipfile.ZipInfo]:
    """The members that are read; ValueError for one that is there twice."""
    wanted = [info for info in archive.infolist() if info.filename.removesuffix(".npy") in FIELDS]
    names = [info.filename.removesuffix(".npy") for info in wanted]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise place.field(twice).error("is in the archive twice")
    return wanted


def _member(archive: zipfile.ZipFile, info: zipfile.ZipInfo, place: Place) -> np.ndarray:
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED) or info.flag_bits & _ENCRYPTED:
        raise place.error("is encrypted or compressed in an unusual way, expected what numpy.savez writes")
    if info.file_size > MAX_MEMBER_BYTES:
        raise place.error(f"unpacks to {info.file_size} bytes, expected at most {MAX_MEMBER_BYTES}")
    with _zip_errors(place), archive.open(info) as member:
        content = member.read(info.file_size + 1)  # a read without a number would unpack all of a bomb
    if len(content) < 10 or content[:6] != b"\x93NUMPY" or content[6] not in (1, 2):
        raise place.error("is not an array in numpy's .npy format")
    start = 10 if content[6] == 1 else 12
    length = int.from_bytes(content[8:start], "little")
    text = content[start : start + length].decode("latin-1")
    header = _HEADER.fullmatch(text) if length <= 1000 else None
    if header is None:
        raise place.error(f"has the header {show(text)}, expected an array of numbers or text")
    order, kind, width, fortran, shape = header.groups()
    return _values(content[start + length :], f"{order}{kind}{width}", fortran == "True", shape, place)


def _values(content: bytes, kind: str, fortran: bool, shape: str, place: Place) -> np.ndarray:
    try:
        dtype = np.dtype(kind)
        sides = [int(side) for side in shape.replace(" ", "").split(",") if side]
    except (TypeError, ValueError):
        raise place.error(f"has the type {show(kind)}, expected an array of numbers or text") from None
    expected = math.prod(sides) * dtype.itemsize
    if dtype.itemsize == 0 or expected != len(content):
        raise place.error(f"holds {len(content)} bytes, expected {expected} for {tuple(sides)} of {dtype}")
    values = np.frombuffer(content, dtype) if content else np.empty(0, dtype)
    return values.reshape(sides, order="F" if fortran else "C")


def _arrays(arrays: dict[str, np.ndarray], ignored: list[str], place: Place) -> PlainArrays:
    key = pose_key(arrays, place)
    given = {}
    for name, shapes in (
        ("K", ((3, 3), (None, 3, 3))),
        ("timestamps_s", ((None,),)),
        ("distortion", ((5,), (None, 5))),
    ):
        if name in arrays:
            given[name] = _numbers(arrays[name], shapes, place.field(name))
    if "size" in arrays:
        at = place.field("size")
        height, width = _numbers(arrays["size"], ((2,),), at).tolist()
        given["size"] = side_px(height, at), side_px(width, at)
    if "fps" in arrays:
        given["fps"] = number(_numbers(arrays["fps"], ((),), place.field("fps")).item(), place.field("fps"), 1e-3, 1e6)
    for name in ("convention", "unit"):
        if name in arrays:
            given[name] = _texts(arrays[name], (), place.field(name))[0]
    if "names" in arrays:
        given["names"] = tuple(_texts(arrays["names"], (None,), place.field("names")))
    poses = _numbers(arrays[key], ((None, 4, 4), (None, 3, 4)), place.field(key))
    return PlainArrays(key, full_poses(poses), ignored=ignored, **given)


def _numbers(values: np.ndarray, shapes: tuple[tuple, ...], place: Place) -> torch.Tensor:
    fits = any(
        len(s) == values.ndim and all(n in (None, m) for n, m in zip(s, values.shape, strict=True)) for s in shapes
    )
    if not fits or values.dtype.kind not in "fiu":
        expected = " or ".join("(" + ", ".join("T" if n is None else str(n) for n in s) + ")" for s in shapes)
        raise place.error(f"expected numbers of shape {expected}, got {values.dtype} of {values.shape}")
    return torch.from_numpy(values.astype(np.float64))


def _texts(values: np.ndarray, shape: tuple, place: Place) -> list[str]:
    if values.ndim != len(shape) or values.dtype.kind != "U" or values.dtype.itemsize > 4 * MAX_NAME:
        raise place.error(f"expected text of {len(shape)} axes, got {values.dtype} of {values.shape}")
    values = np.atleast_1d(values).astype(values.dtype.newbyteorder("="))
    if values.size and values.view(np.uint32).max() > sys.maxunicode:  # numpy would fail with a SystemError
        raise place.error("holds characters that do not exist")
    texts = values.tolist()
    for index, text in enumerate(texts):
        check_name(text, place.item(index))
    return texts


def write(sequence: CameraSequence) -> bytes:
    """The file's bytes; nothing that a `CameraSequence` holds is lost."""
    camera, buffer = sequence.camera, io.BytesIO()
    arrays = {
        "convention": np.array(CONVENTION),
        "unit": np.array(sequence.unit),
        "size": np.array(camera.size),
        "names": np.array(sequence.names),
        "c2w": camera.c2w.double().numpy(),
        "K": camera.K.double().numpy(),
    }
    if sequence.timestamps_s is not None:
        arrays["timestamps_s"] = sequence.timestamps_s.double().numpy()
    if sequence.distortion is not None:
        arrays["distortion"] = sequence.distortion.coefficients.double().numpy()
    np.savez_compressed(buffer, **arrays)
    return buffer.getvalue()
