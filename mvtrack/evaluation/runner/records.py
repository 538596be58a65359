"""Small JSON files that say what was done: written whole or not at all, named or marked by a hash of what went in."""

import hashlib
import json
import math
from pathlib import Path

from mvtrack.evaluation.interface import Skipped
from mvtrack.files.atomic_io import write_aside


def hash_of(value: object) -> str:
    """sha256 of plain values, in an order that does not matter for mappings."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def hash_of_files(files: list[Path], settings: object) -> str:
    """sha256 of files' contents in the order given, and of plain settings. ValueError names a file that is missing."""
    digest = hashlib.sha256(hash_of(settings).encode())
    for file in files:
        try:
            content = file.read_bytes()
        except OSError as error:
            raise ValueError(f"cannot read {file}: {error.strerror or error}") from None
        digest.update(f"{len(content)}\n".encode())
        digest.update(content)
    return digest.hexdigest()


def write_text(path: Path, text: str) -> None:
    """Write a file beside its place, then rename it; a file that holds this very text already is left alone."""
    if path.is_file() and path.read_text(encoding="utf-8") == text:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    write_aside(path, lambda aside: aside.write_text(text, encoding="utf-8"))


def write_record(path: Path, record: dict) -> None:
    write_text(path, json.dumps(record, indent=1, allow_nan=False) + "\n")


def read_record(path: Path) -> dict | None:
    """A record, None where there is none. ValueError for a file that is damaged."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return None
    try:
        record = json.loads(text)
    except ValueError:
        record = None
    if not isinstance(record, dict) or "key" not in record:
        raise ValueError(f"{path} is damaged: delete it, and what it held is made again")
    return record


def pack(value: float | Skipped) -> object:
    """A score as JSON holds it; infinity as text."""
    if isinstance(value, Skipped):
        return {"kind": value.kind, "reason": value.reason}
    return ("inf" if value > 0 else "-inf") if math.isinf(value) else value


def unpack(value: object) -> float | Skipped:
    return Skipped(**value) if isinstance(value, dict) else float(value)
