"""Names of files that are none."""

import re
from pathlib import Path


def refuse_address(path: Path | str) -> None:
    """Raises ValueError for a web address, or another one with a scheme."""
    if scheme := re.match(r"([A-Za-z][A-Za-z0-9+.-]+):/+", str(path)):  # a Path has made // into /
        address = f"{scheme[1]}://{str(path)[scheme.end() :]}"
        raise ValueError(f"{address} is an address: only files are read, download it first")
