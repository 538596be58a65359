"""What the studio keeps: a folder for every upload and every job, which outlives the server.

FOLDER/uploads/ID and FOLDER/jobs/ID each hold info.json, which never changes and whose presence makes the entry
complete, and status.json, which is written aside and renamed. Names that users give are values in info.json, never
parts of a path.
"""

import fcntl
import json
import re
import secrets
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from mvtrack.files.atomic_io import write_aside

Kind = Literal["uploads", "jobs"]
KINDS: tuple[Kind, ...] = ("uploads", "jobs")
_ID = re.compile(r"[0-9a-f]{16}")
_LONGEST_NAME = 120


class UnknownEntryError(LookupError):
    """No such upload or job, or one of another session: the answer is the same."""


@dataclass
class Entry:
    """info: as it was made. status: what became of it."""

    folder: Path
    info: dict[str, Any]
    status: dict[str, Any] = field(default_factory=dict)

    @property
    def id(self) -> str:
        return self.folder.name

    @property
    def owner(self) -> str:
        """Digest of the session that it belongs to."""
        return self.info["owner"]

    def update(self, **values: Any) -> None:
        """Change the status, in memory and on disk. Where the disk is full or the entry was removed, in memory alone:
        the next server then sees what it was before."""
        self.status = self.status | values
        text = json.dumps(self.status)
        with suppress(OSError):
            write_aside(self.folder / "status.json", lambda aside: aside.write_text(text))


class Store:
    """Raises ValueError for a folder that holds something else."""

    def __init__(self, root: Path) -> None:
        self.root = root.resolve()
        if self.root.exists() and not self.root.is_dir():
            raise ValueError(f"{root} is not a folder: give one for uploads and results")
        self.root.mkdir(parents=True, exist_ok=True)
        others = [path for path in self.root.iterdir() if not path.name.startswith(".")]
        if others and not (self.root / "jobs").is_dir():
            raise ValueError(f"{root} holds other things than a studio's uploads and jobs: give an empty folder")
        self.entries: dict[Kind, dict[str, Entry]] = {kind: {} for kind in KINDS}
        for kind in KINDS:
            (self.root / kind).mkdir(parents=True, exist_ok=True)
            for folder in sorted((self.root / kind).iterdir()):
                self._load(kind, folder)

    def _load(self, kind: Kind, folder: Path) -> None:
        info = folder / "info.json"
        if not _ID.fullmatch(folder.name) or folder.is_symlink() or not folder.is_dir():
            return
        if not info.exists():  # the server ended while it was made
            shutil.rmtree(folder, ignore_errors=True)
            return
        status = folder / "status.json"
        known = json.loads(status.read_text()) if status.exists() else {}
        self.entries[kind][folder.name] = Entry(folder, json.loads(info.read_text()), known)

    def new_folder(self, kind: Kind) -> Path:
        """An empty folder with an id of its own, which no list shows before `add`."""
        folder = self.root / kind / secrets.token_hex(8)
        folder.mkdir()
        return folder

    def add(self, kind: Kind, folder: Path, owner: str, /, **values: Any) -> Entry:
        """Make a folder an entry; from now on it is kept."""
        info = {"owner": owner, "created": time.time(), **values}
        write_aside(folder / "info.json", lambda aside: aside.write_text(json.dumps(info)))
        entry = self.entries[kind][folder.name] = Entry(folder, info)
        return entry

    def get(self, kind: Kind, id: str, owner: str | None) -> Entry:
        """owner: None sees everything. Raises UnknownEntryError."""
        entry = self.entries[kind].get(id)
        if entry is None or owner not in (None, entry.owner):
            raise UnknownEntryError(f"there is no such {kind.removesuffix('s')}")
        return entry

    def of(self, kind: Kind, owner: str | None) -> list[Entry]:
        """Those of an owner, the newest first."""
        known = (entry for entry in self.entries[kind].values() if owner in (None, entry.owner))
        return sorted(known, key=lambda entry: entry.info["created"], reverse=True)

    def remove(self, kind: Kind, entry: Entry) -> None:
        """From the list and from the disk."""
        self.entries[kind].pop(entry.id, None)
        shutil.rmtree(entry.folder, ignore_errors=True)

    def free_bytes(self) -> int:
        """Of the disk that the folder lies on."""
        return shutil.disk_usage(self.root).free


@contextmanager
def only_server(root: Path) -> Iterator[None]:
    """Hold a studio's folder. Raises ValueError while another server does; the system lets go of a killed one's."""
    root.mkdir(parents=True, exist_ok=True)
    with (root / ".lock").open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ValueError(f"another mvtrack web works in {root}: use that one, or give another folder") from error
        yield


def label(name: str) -> str:
    """A user's name for a file, to be shown: without what is before a slash, and without control characters."""
    shown = "".join(c for c in re.split(r"[/\\]", name)[-1] if c.isprintable()).strip()
    return shown[:_LONGEST_NAME] or "video"
