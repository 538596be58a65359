"""Untrusted files into plain Python values: every failure is a ValueError of one line that says where and what.

A pose file comes from anybody. Sizes are limited before anything is read, numbers are finite and of a sane size,
a key that occurs twice in JSON is an error, and a place (file, field, line or frame) travels with every value.
"""

import json
import math
import os
import re
import reprlib
import stat
import unicodedata
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

MAX_JSON_BYTES = 16 << 20  # parsing and checking this much stays under about two seconds
MAX_TEXT_BYTES = 16 << 20
MAX_FRAMES = 100_000  # nearly an hour at 30 frames a second
MAX_NUMBER = 1e12
MAX_SIDE_PX = 100_000
MAX_NAME = 1024
_MAX_RUNS = 32  # of digits in a name that count as numbers
_NOT_IN_NAMES = ("Cc", "Cs", "Zl", "Zp")  # Unicode's categories: control, surrogate, line and paragraph separator

_NUMBER = re.compile(r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?", re.ASCII)
_short = reprlib.Repr()
_short.maxstring = _short.maxother = _short.maxlong = 60
_short.maxlist = _short.maxtuple = _short.maxdict = 4


def show(value: object) -> str:
    """A short one-line rendering of any value, for errors."""
    text = _short.repr(value)
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def shown_path(path: Path | str) -> str:
    """A path for errors: as it is when printable, quoted and escaped when not."""
    text = str(path)
    return text if text.isprintable() else ascii(text)


class Place(NamedTuple):
    """Where a value stands: the file, then fields (text), items (numbers) or a line. Only for errors, so made of parts
    that are put together when one happens."""

    file: str
    parts: tuple[str | int, ...] = ()

    def field(self, name: str) -> "Place":
        return Place(self.file, (*self.parts, name))

    def item(self, index: int) -> "Place":
        return Place(self.file, (*self.parts, index))

    def line(self, number: int) -> "Place":
        return Place(self.file, (f"line {number}",))

    def error(self, message: str) -> ValueError:
        at = ""
        for part in self.parts:
            if isinstance(part, int):
                at += f"[{part}]"
            else:
                plain = part.replace("line ", "", 1).isalnum() or part.isidentifier()
                at += f"{'.' if at else ''}{part if plain and len(part) <= 60 else show(part)}"
        return ValueError(f"{self.file}: {at}: {message}" if at else f"{self.file}: {message}")


def place_of(path: Path | str) -> Place:
    return Place(shown_path(path))


def file_size(path: Path | str, limit: int) -> int:
    """Bytes of a regular file that may be read. Raises ValueError for anything else."""
    place = place_of(path)
    try:
        status = os.stat(path)
    except OSError as error:
        raise place.error(f"cannot be read: {error.strerror or error}") from None
    except ValueError as error:
        raise place.error(f"is no file name: {error}") from None
    if stat.S_ISDIR(status.st_mode):
        raise place.error("is a folder, expected a file")
    if not stat.S_ISREG(status.st_mode):
        raise place.error("is not a regular file")
    if status.st_size > limit:
        raise place.error(f"has {status.st_size} bytes, expected at most {limit} for a file of this kind")
    return status.st_size


def read_bytes(path: Path | str, limit: int) -> bytes:
    """A whole regular file of 1 to `limit` bytes."""
    place = place_of(path)
    file_size(path, limit)
    try:
        with open(path, "rb") as file:
            content = file.read(limit + 1)
    except OSError as error:
        raise place.error(f"cannot be read: {error.strerror or error}") from None
    if not content:
        raise place.error("is empty")
    if len(content) > limit:
        raise place.error(f"has more than {limit} bytes")
    return content


def read_text(path: Path | str, limit: int = MAX_TEXT_BYTES) -> str:
    """A UTF-8 text file (a byte order mark is accepted)."""
    try:
        return read_bytes(path, limit).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise place_of(path).error(f"is not UTF-8 text (byte {error.start})") from None


def lines_of(text: str) -> list[str]:
    """Lines by line feed (or the pair of carriage return and line feed) only: names may hold other separators."""
    return text.replace("\r\n", "\n").split("\n")


def read_json(path: Path | str, limit: int = MAX_JSON_BYTES) -> object:
    """A JSON document of at most `limit` bytes, without constants such as NaN and without keys that occur twice."""
    return parse_json(read_text(path, limit), place_of(path))


def parse_json(text: str | bytes, place: Place) -> object:
    """The same of what is at hand."""
    try:
        return json.loads(text, parse_int=_json_int, parse_constant=_json_constant, object_pairs_hook=_unique_keys)
    except RecursionError:
        raise place.error("is nested too deeply to be a pose file") from None
    except UnicodeDecodeError:
        raise place.error("is not valid JSON: not UTF-8 text") from None
    except json.JSONDecodeError as error:
        raise place.error(f"line {error.lineno}: is not valid JSON ({error.msg}, column {error.colno})") from None
    except ValueError as error:
        raise place.error(f"is not valid JSON for poses: {error}") from None


def _json_int(digits: str) -> int:
    if len(digits) > 40:
        raise ValueError(f"an integer of {len(digits)} digits")
    return int(digits)


def _json_constant(name: str) -> float:
    raise ValueError(f"the constant {name}, expected finite numbers only")


def _unique_keys(pairs: list[tuple[str, object]]) -> dict:
    found = dict(pairs)
    if len(found) != len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))
        raise ValueError(f"the key {show(twice)} occurs twice in one object")
    return found


def items(value: object, place: Place, length: int | None = None) -> list:
    """A JSON list, of exactly `length` items where that is given."""
    if not isinstance(value, list) or (length is not None and len(value) != length):
        expected = "a list" if length is None else f"a list of {length}"
        got = f"a list of {len(value)}" if isinstance(value, list) else show(value)
        raise place.error(f"expected {expected}, got {got}")
    return value


def frame_count(count: int, place: Place) -> int:
    if not 1 <= count <= MAX_FRAMES:
        raise place.error(f"has {count} frames, expected 1 to {MAX_FRAMES}")
    return count


def number(value: object, place: Place, low: float = -MAX_NUMBER, high: float = MAX_NUMBER) -> float:
    """A finite number in [low, high]; booleans and strings are none."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise place.error(f"expected a number, got {show(value)}")
    if not math.isfinite(value) or not low <= value <= high:
        raise place.error(f"expected a number in [{low:g}, {high:g}], got {show(value)}")
    return float(value)


def positive(value: object, place: Place) -> float:
    """A number > 0, for focal lengths."""
    if number(value, place) <= 0:
        raise place.error(f"expected a positive number, got {show(value)}")
    return float(value)


def side_px(value: object, place: Place) -> int:
    """A height or width: a whole number of pixels (2.0 passes, 2.5 does not)."""
    side = number(value, place, 1, MAX_SIDE_PX)
    if side != int(side):
        raise place.error(f"expected a whole number of pixels, got {show(value)}")
    return int(side)


def numbers(value: object, place: Place, *shapes: tuple[int | None, ...]) -> Tensor:
    """A float64 tensor from lists of a JSON document or an array of an npz file; None in a shape stands for any number.

    Raises ValueError that names the item which is no number, or the list of a wrong length.
    """
    if not isinstance(value, np.ndarray):
        return torch.tensor(_nested(value, place, _nearest_shape(value, shapes)), dtype=torch.float64)
    fits = any(len(shape) == value.ndim and _agree(shape, value.shape) for shape in shapes)
    if not fits or value.dtype.kind not in "fiu":
        expected = " or ".join("(" + ", ".join("T" if n is None else str(n) for n in shape) + ")" for shape in shapes)
        raise place.error(f"expected numbers of shape {expected}, got {value.dtype} of {value.shape}")
    return torch.from_numpy(value.astype(np.float64))


def _agree(shape: tuple[int | None, ...], sides: Iterable[int]) -> bool:
    return all(n in (None, m) for n, m in zip(shape, sides, strict=False))


def _nearest_shape(value: object, shapes: tuple[tuple[int | None, ...], ...]) -> tuple[int | None, ...]:
    """The shape that nested lists have by their first items; one of as many axes, or the first, where none fits."""
    sides = []
    while isinstance(value, list) and len(sides) < 4:
        sides.append(len(value))
        value = value[0] if value else None
    of_depth = [shape for shape in shapes if len(shape) == len(sides)]
    return next((shape for shape in of_depth if _agree(shape, sides)), (of_depth or shapes)[0])


def _nested(value: object, place: Place, shape: tuple[int | None, ...]) -> object:
    if not shape:
        return number(value, place)
    row = items(value, place, shape[0])
    if len(shape) == 1 and all(type(v) in (float, int) and -MAX_NUMBER <= v <= MAX_NUMBER for v in row):
        return row  # the rest is for the error
    return [_nested(entry, place.item(i), shape[1:]) for i, entry in enumerate(row)]


def name(value: object, place: Place) -> str:
    """A frame's name: a string of 1 to MAX_NAME characters without control characters and line separators."""
    if not isinstance(value, str):
        raise place.error(f"expected a name, got {show(value)}")
    check_name(value, place)
    return value


def check_name(value: str, place: Place) -> None:
    if not 1 <= len(value) <= MAX_NAME:
        raise place.error(f"a name has {len(value)} characters, expected 1 to {MAX_NAME}")
    bad = next((c for c in value if unicodedata.category(c) in _NOT_IN_NAMES), None)
    if bad is not None:
        raise place.error(f"the name {show(value)} holds the control character {ascii(bad)}")


class Fields:
    """A JSON object, or the arrays of an archive, by name: every value is checked as it is taken.

    Raises ValueError that names the place for what is no object, for a field that is missing, and for a wrong value.
    """

    def __init__(self, tree: object, place: Place) -> None:
        if not isinstance(tree, dict):
            raise place.error(f"expected a JSON object, got {show(tree)}")
        self.tree, self.place = tree, place

    def __contains__(self, key: str) -> bool:
        return key in self.tree

    def __getitem__(self, key: str) -> object:
        if key not in self.tree:
            raise self.place.error(f"the field {show(key)} is missing")
        return self.tree[key]

    def at(self, key: str) -> Place:
        return self.place.field(key)

    def number(self, key: str, low: float = -MAX_NUMBER, high: float = MAX_NUMBER) -> float:
        return number(self[key], self.at(key), low, high)

    def positive(self, key: str) -> float:
        return positive(self[key], self.at(key))

    def side_px(self, key: str) -> int:
        return side_px(self[key], self.at(key))

    def name(self, key: str) -> str:
        return name(self[key], self.at(key))

    def numbers(self, key: str, *shapes: tuple[int | None, ...]) -> Tensor:
        return numbers(self[key], self.at(key), *shapes)

    def objects(self, key: str) -> list["Fields"]:
        """The objects of a list, one a frame."""
        return objects(self[key], self.at(key))


def objects(value: object, place: Place) -> list[Fields]:
    """A list of objects, one a frame."""
    frame_count(len(items(value, place)), place)
    return [Fields(entry, place.item(i)) for i, entry in enumerate(value)]


def text_number(token: str, place: Place) -> float:
    """A decimal number of a text file. Python's extras (nan, inf, 1_000, other scripts' digits) are none."""
    if not _NUMBER.fullmatch(token):
        raise place.error(f"expected a number, got {show(token)}")
    return number(float(token), place)


def is_number(token: str) -> bool:
    return _NUMBER.fullmatch(token) is not None


def natural_order(names: Iterable[str]) -> list[int]:
    """Indices that sort names with digits by value: frame_2 before frame_10. Ties keep plain string order."""
    names = list(names)
    return sorted(range(len(names)), key=lambda i: (_natural_key(names[i]), names[i]))


def _natural_key(text: str) -> list[tuple[int, int, str]]:
    # A run of digits compares by length, then by its text: the value, without converting a million digits.
    parts = re.split(r"([0-9]+)", text, maxsplit=_MAX_RUNS)
    return [
        (1, len(part.lstrip("0")), part.lstrip("0")) if index % 2 else (0, 0, part) for index, part in enumerate(parts)
    ]
