"""What every format shares: a file or folder that is opened once, and what a format has to say of itself."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from mvtrack.config.pose_files import ReadOptions
from mvtrack.files.addresses import refuse_address
from mvtrack.geometry.pose_files.npz import NpzFile
from mvtrack.geometry.pose_files.parse import (
    Fields,
    Place,
    check_name,
    file_size,
    frame_count,
    is_number,
    lines_of,
    place_of,
    read_bytes,
    read_json,
    read_text,
    text_number,
)
from mvtrack.geometry.pose_files.sequence import CameraSequence

MAX_TEXT_BYTES = 64 << 20
HOLDABLE = ("names", "times", "intrinsics", "size", "distortion", "unit", "points")
ALL_BUT_POINTS = ("names", "times", "intrinsics", "size", "distortion", "unit")
ALL_BUT_TIMES = ("names", "intrinsics", "size", "distortion")
LENS_OPTIONS = ("size", "fov", "focal_px", "focal_mm", "sensor_mm")
_START_BYTES = 1 << 16


class PoseSource:
    """A file or folder that is to be read, in the forms that formats need; each is made once, when it is needed."""

    def __init__(self, path: Path | str):
        refuse_address(path)
        self.path = Path(path)
        self.place = place_of(path)
        self.is_folder = os.path.isdir(path)
        if not self.is_folder:
            file_size(path, 1 << 62)  # missing, no file, or a name that cannot be one: said before anything else

    @cached_property
    def start(self) -> bytes:
        """The first bytes of a file; none of a folder."""
        if self.is_folder or self.is_npz:
            return b""
        return read_bytes(self.path, MAX_TEXT_BYTES)[:_START_BYTES].removeprefix(b"\xef\xbb\xbf")

    @cached_property
    def is_npz(self) -> bool:
        return self.magic.startswith(b"PK")

    @cached_property
    def magic(self) -> bytes:
        """The first few bytes, whatever the file's size."""
        if self.is_folder:
            return b""
        try:
            with open(self.path, "rb") as file:
                return file.read(8)
        except OSError as error:
            raise self.place.error(f"cannot be read: {error.strerror or error}") from None

    @cached_property
    def npz(self) -> NpzFile:
        return NpzFile(self.path)

    @cached_property
    def json(self) -> object:
        return read_json(self.path)

    @property
    def document(self) -> Fields:
        """The JSON object that the file is."""
        return Fields(self.json, self.place)

    @property
    def fields(self) -> dict:
        """The JSON object, or an empty one where the file is something else: for detection."""
        looks = self.start.lstrip()[:1] in (b"{", b"[")
        return self.json if looks and isinstance(self.json, dict) else {}

    @property
    def entries(self) -> list:
        """The JSON list that the file is, or an empty one where it is something else: for detection."""
        looks = self.start.lstrip()[:1] == b"["
        return self.json if looks and isinstance(self.json, list) else []

    @cached_property
    def first_rows(self) -> list[list[str]]:
        """Tokens of the first lines of a text file that are neither empty nor a comment."""
        if self.start.lstrip()[:1] in (b"", b"{", b"["):
            return []
        lines = [line.split() for line in lines_of(self.start.decode("utf-8", "replace"))[:100] if line.strip()]
        return [tokens for tokens in lines if not tokens[0].startswith("#")][:50]

    def has_rows_of(self, columns: int, among: int = 1) -> bool:
        """Whether one of the first rows is of so many numbers."""
        return any(len(row) == columns and all(map(is_number, row)) for row in self.first_rows[:among])

    def rows(self, columns: int, meaning: str = "", title_line: bool = False) -> list[tuple[Place, list[str]]]:
        """Place and tokens of every row of a table; comments and empty lines are left out, and, with `title_line`, a
        first line that does not begin with a number."""
        rows = []
        for index, line in enumerate(lines_of(read_text(self.path)), 1):
            tokens, at = line.split(), self.place.line(index)
            if not tokens or tokens[0].startswith("#") or (title_line and index == 1 and not is_number(tokens[0])):
                continue
            frame_count(len(rows) + 1, self.place)
            if len(tokens) != columns:
                raise at.error(f"has {len(tokens)} columns, expected {columns}{meaning}")
            check_name(tokens[0], at)
            rows.append((at, tokens))
        frame_count(len(rows), self.place)
        return rows


def row_numbers(row: tuple[Place, list[str]]) -> list[float]:
    """The numbers of a row of `PoseSource.rows`."""
    at, tokens = row
    return [text_number(token, at) for token in tokens]


@dataclass(frozen=True)
class PoseFormat:
    """One format. `axes` and `direction` are those of its numbers; `unit` says what a length of 1 is.

    detect: whether a source looks like it. options: those of `ReadOptions` that reading takes. holds: which of
    `HOLDABLE` a file can carry. write gives one file's bytes, or a folder's files by name; None where a format is only
    read.
    """

    name: str
    title: str
    axes: str
    direction: str
    unit: str
    detect: Callable[[PoseSource], bool]
    read: Callable[[PoseSource, ReadOptions], CameraSequence]
    write: Callable[[CameraSequence], bytes | dict[str, bytes]] | None = None
    options: tuple[str, ...] = ()
    holds: tuple[str, ...] = ()
    is_folder: bool = False
