"""The weights that the project can use: where they come from, what they must hash to, their licence, what needs them.

A value that nobody looked up is null, never a guess.
"""

import json
from dataclasses import dataclass
from functools import cache
from importlib import resources
from pathlib import Path

from mvtrack.config.tree import from_tree
from mvtrack.files.cache import sha256
from mvtrack.models.weights.locate import companions, missing_files

_MODEL_PARTS = ("dit", "vae", "text", "tokenizer", "image")


@dataclass(frozen=True)
class WeightsEntry:
    """One file. part: which of a model's parts, or how a metric comes by it. source: a hub id, or the address that the
    file lies under (package://: an installed package). sha256: the digest, or its first digits
    where only those are published. licence, non_commercial: None where nobody has read them.
    """

    name: str
    part: str
    source: str
    file: str
    bytes: int | None = None
    sha256: str | None = None
    licence: str | None = None
    non_commercial: bool | None = None
    needed_by: tuple[str, ...] = ()
    note: str = ""

    @property
    def from_hub(self) -> bool:
        return "://" not in self.source

    @property
    def of_model(self) -> bool:
        """Whether models are made of it; else it serves metrics."""
        return self.part in _MODEL_PARTS


@cache
def registry() -> dict[str, WeightsEntry]:
    """All entries by name."""
    text = resources.files("mvtrack").joinpath("models/weights/registry.json").read_text()
    entries = [from_tree(WeightsEntry, tree, "models/weights/registry.json") for tree in json.loads(text)["weights"]]
    return {entry.name: entry for entry in entries}


def needed_by(user: str) -> list[WeightsEntry]:
    """What a preset, metric or command needs, by the words that the registry uses for it."""
    return [entry for entry in registry().values() if user in entry.needed_by]


def cached_file(entry: WeightsEntry) -> Path | None:
    """Where the hub's cache holds an entry; None if it does not. No network."""
    if not entry.from_hub:
        return None
    try:
        from huggingface_hub import try_to_load_from_cache
    except ImportError:
        return None
    found = try_to_load_from_cache(entry.source, entry.file)
    return Path(found) if isinstance(found, str) else None


def fetch_command(entry: WeightsEntry) -> str:
    """What a user types to have an entry with all that belongs to it."""
    files = companions(entry.file)
    alone = files == [entry.file]
    return f"hf download {entry.source} " + (entry.file if alone else " ".join(f"--include '{name}'" for name in files))


def problem_with(path: Path, entry: WeightsEntry, hash_it: bool = True) -> str | None:
    """What is wrong with a file that should be an entry's; None if nothing is. hash_it: read it all."""
    lacking = missing_files(path)
    if lacking:
        more = f" (and {len(lacking) - 1} more)" if len(lacking) > 1 else ""
        return f"{path} is there, but not {lacking[0]}{more} that belongs to it: {fetch_command(entry)}"
    size = path.stat().st_size
    if entry.bytes is not None and size != entry.bytes:
        return f"{path} has {size} bytes, {entry.name} has {entry.bytes}: download it again"
    if hash_it and entry.sha256 is not None:
        found = sha256(path)
        if not found.startswith(entry.sha256):
            return f"{path} has SHA-256 {found[:16]}..., {entry.name} has {entry.sha256[:16]}...: it is another file"
    return None
