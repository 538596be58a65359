"""What a finished job offers: its files by name, all of them as one archive, and its tracks for the page."""

import json
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from mvtrack.inference.full_resolution.region import plan_region
from mvtrack.inference.studio.render_queue import result_of
from mvtrack.inference.studio.store import Entry
from mvtrack.video.resize import Fit

_PIECE = 1 << 20
_STAMP = (1980, 1, 1, 0, 0, 0)


def files_of(job: Entry) -> dict[str, Path]:
    """By the names under which they are offered; a name that a user gives is looked up here, and never a path."""
    result = result_of(job)
    if result is None:
        return {}
    if result.is_file():
        return {result.name: result}
    return {path.name: path for path in sorted(result.iterdir()) if path.is_file() and not path.name.startswith(".")}


class _Pipe:
    """A file that is only written to, and emptied as it grows."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []

    def write(self, data: bytes) -> int:
        self._parts.append(bytes(data))
        return len(data)

    def flush(self) -> None:
        """Nothing is held back."""

    def taken(self) -> bytes:
        data, self._parts = b"".join(self._parts), []
        return data


def archive(files: dict[str, Path]) -> Iterator[bytes]:
    """A zip file in pieces, of which none is larger than a few megabytes; videos are not compressed again."""
    pipe = _Pipe()
    with zipfile.ZipFile(pipe, "w", zipfile.ZIP_STORED) as made:
        for name, path in files.items():
            info = zipfile.ZipInfo(name, _STAMP)
            with path.open("rb") as source, made.open(info, "w", force_zip64=True) as entry:
                while piece := source.read(_PIECE):
                    entry.write(piece)
                    yield pipe.taken()
            yield pipe.taken()
    yield pipe.taken()


def box_of(job: Entry) -> list[float] | None:
    """Which part of the source a re-shot video shows: left, top, width, height as shares of it."""
    file = files_of(job).get("run.json")
    if file is None:
        return None
    record = json.loads(file.read_text())
    fit = Fit(**{name: tuple(v) if isinstance(v, list) else v for name, v in record["fit"].items()})
    full = record.get("full_resolution")
    top, left, height, width = full["box"] if full else plan_region(fit, fit.content).box
    rows, columns = fit.source
    return [left / columns, top / rows, width / columns, height / rows]


def tracks_of(job: Entry) -> dict[str, Any] | None:
    """Points as shares of source and result, (2, T, N, 2), and whether each is seen; None where none were followed."""
    file = files_of(job).get("tracks.npz")
    if file is None:
        return None
    with np.load(file, allow_pickle=False) as arrays:
        xy, sizes = arrays["xy"].astype(np.float64), arrays["size"]
        visible = arrays["visible"] & arrays["followed"]
    shares = np.nan_to_num(xy / sizes[:, None, None, ::-1])
    return {"xy": np.round(shares, 4).tolist(), "visible": visible.tolist()}
