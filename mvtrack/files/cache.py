"""Where results that took long are kept between runs, and the hashes that name them."""

import hashlib
import os
from functools import lru_cache
from pathlib import Path


def cache_folder() -> Path:
    """`MVTRACK_CACHE`, or mvtrack in the user's cache folder."""
    given = os.environ.get("MVTRACK_CACHE")
    user = Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser()
    return Path(given).expanduser() if given else user / "mvtrack"


def sha256(path: Path) -> str:
    """Hex digest of a file's bytes, or of a folder's files in order of their names."""
    digest = hashlib.sha256()
    for file in sorted(path.iterdir()) if path.is_dir() else [path]:
        if file.is_file():
            with file.open("rb") as stream:
                while block := stream.read(1 << 20):
                    digest.update(block)
    return digest.hexdigest()


def sampled_sha256(path: Path, pieces: int = 64, piece_bytes: int = 1 << 16, whole: int | None = None) -> str:
    """Hex digest of a file's size and of pieces spread over it. whole: bytes up to which all of it is hashed; default:
    those of all pieces."""
    size = path.stat().st_size
    digest = hashlib.sha256(str(size).encode())
    with path.open("rb") as file:
        if size <= (pieces * piece_bytes if whole is None else whole):
            digest.update(file.read())
        else:
            for n in range(pieces):
                file.seek(n * (size - piece_bytes) // (pieces - 1))
                digest.update(file.read(piece_bytes))
    return digest.hexdigest()


def sha256_once(file: Path) -> str:
    """Hex digest of a file, read once as long as its size and time stay what they are."""
    stat = file.stat()
    return _sha256_once(file, stat.st_size, stat.st_mtime_ns)


@lru_cache(maxsize=4096)
def _sha256_once(file: Path, size: int, time_ns: int) -> str:
    return sha256(file)


def weights_identity(model: str) -> str:
    """What tells the weights of a network from others: an id as it is, of a path that exists the hash of what it holds
    (of a folder: of all files below it, by their names)."""
    path = Path(model)
    if path.is_file():
        return f"sha256 {sha256_once(path)}"
    if not path.is_dir():
        return model
    files = sorted(file for file in path.rglob("*") if file.is_file())
    listed = "".join(f"{file.relative_to(path)}\n{sha256_once(file)}\n" for file in files)
    return f"sha256 {hashlib.sha256(listed.encode()).hexdigest()}"
