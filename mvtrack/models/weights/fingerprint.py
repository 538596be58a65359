"""What a weights file is, told quickly: names for caches. A full hash of 11 GB would take longer than using it."""

import hashlib
import json
from pathlib import Path

from mvtrack.files.cache import sampled_sha256
from mvtrack.models.weights.checkpoint import INDEX_SUFFIX, shard_names

SAMPLES, SAMPLE_BYTES = 64, 2**16


def fingerprint(path: Path) -> str:
    """A hash of a file's size and of 64 pieces of 64 KiB spread over it; of a folder or index, of all its files.

    Files of up to 4 MiB are hashed whole.
    """
    path = path.resolve() if path.is_file() and not path.name.endswith(INDEX_SUFFIX) else path
    if path.is_dir():
        files = sorted(file for file in path.iterdir() if file.is_file())
        return _digest({file.name: fingerprint(file) for file in files})
    if path.name.endswith(INDEX_SUFFIX):
        return _digest({name: fingerprint(path.parent / name) for name in shard_names(path)})
    return sampled_sha256(path, SAMPLES, SAMPLE_BYTES)


def _digest(parts: dict[str, str]) -> str:
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()
