"""Where results that took long are kept between runs, and the hashes that name them."""

import hashlib
import os
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
