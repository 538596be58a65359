"""Tracks of a clip on disk: a file per query frame while they are made, and tracks.npz when all are there.

Whatever ends the work leaves whole files; the next start goes on behind them, and the result is the same bytes.
"""

import shutil
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open

from mvtrack.files.atomic_io import write_aside
from mvtrack.files.tensor_file import write_tensors
from mvtrack.training.pseudo_tracks.views import ClipViews, FrameTracks, GridQueries, QueryFrame

_KEY = "made_by"


class TrackParts:
    """The query frames of one clip whose tracks are there. path: of the result; key: of what they are made of."""

    def __init__(self, path: Path, key: str) -> None:
        self.path, self.key = path, key
        self.folder = path.with_name(f".{path.name}.{key[:16]}")

    def are_joined(self) -> bool:
        """Whether the result is there, and was made of the same."""
        try:
            with np.load(self.path, allow_pickle=False) as file:
                return _KEY in file and str(file[_KEY]) == self.key
        except (OSError, ValueError, zipfile.BadZipFile):
            return False

    def missing(self, frames: Sequence[QueryFrame]) -> list[QueryFrame]:
        """Those that have still to be tracked."""
        return [frame for frame in frames if not self._is_whole(self._part(frame))]

    def write(self, frame: QueryFrame, tracks: FrameTracks) -> None:
        """Keep the tracks of a query frame."""
        arrays = {"xy": tracks.xy.float(), "visible": tracks.visible, "found": tracks.found}
        write_tensors(self._part(frame), arrays, {_KEY: self.key})

    def join(self, frames: Sequence[QueryFrame], queries: GridQueries, views: ClipViews) -> None:
        """Write tracks.npz out of all parts, of which one view's tracks are in memory at a time, and remove them.

        Its arrays are xy, visible, found, query (view, frame, x, y of each point) and the key.
        """
        asked = []
        for view, frame in frames:
            xy = queries.points(views.videos[view].size).numpy()
            asked.append(np.concatenate([np.broadcast_to(np.float32([view, frame]), (len(xy), 2)), xy], 1))
        shape = (len(views.videos), views.num_frames, queries.count * len(frames))

        def write(aside: Path) -> None:
            with zipfile.ZipFile(aside, "w", zipfile.ZIP_STORED, allowZip64=True) as archive:
                _write_array(archive, "xy", (*shape, 2), np.float32, self._each_view(frames, "xy", shape[0], 1))
                _write_array(archive, "visible", shape, np.bool_, self._each_view(frames, "visible", shape[0], 1))
                found = self._each_view(frames, "found", shape[0], 0)
                _write_array(archive, "found", (shape[0], shape[2]), np.bool_, found)
                _write_array(archive, "query", (shape[2], 4), np.float32, asked)
                _write_array(archive, _KEY, (), f"<U{len(self.key)}", [np.array(self.key)])

        write_aside(self.folder / self.path.name, write)
        (self.folder / self.path.name).replace(self.path)
        for left in self.path.parent.glob(f".{self.path.name}.*"):
            shutil.rmtree(left, ignore_errors=True)

    def _each_view(self, frames: Sequence[QueryFrame], name: str, views: int, axis: int) -> Iterator[np.ndarray]:
        for view in range(views):
            parts = []
            for frame in frames:
                with safe_open(self._part(frame), "pt") as file:
                    parts.append(file.get_slice(name)[view])
            yield torch.cat(parts, axis).numpy()

    def _part(self, frame: QueryFrame) -> Path:
        return self.folder / f"view{frame.view:03d}_frame{frame.frame:06d}.safetensors"

    def _is_whole(self, part: Path) -> bool:
        try:
            with safe_open(part, "pt") as file:
                return file.metadata() == {_KEY: self.key}
        except (SafetensorError, OSError):
            return False


def _write_array(archive: zipfile.ZipFile, name: str, shape: tuple, dtype: object, parts) -> None:
    """One array of an .npz file, written piece by piece; zip's own date of 1980 keeps the bytes the same."""
    header = {"descr": np.lib.format.dtype_to_descr(np.dtype(dtype)), "fortran_order": False, "shape": shape}
    with archive.open(f"{name}.npy", "w", force_zip64=True) as file:
        np.lib.format.write_array_header_2_0(file, header)
        for part in parts:
            file.write(np.ascontiguousarray(part, dtype).tobytes())


def disk_bytes(views: int, frames: int, points: int) -> int:
    """What tracks.npz takes."""
    return views * frames * points * 9 + views * points + 16 * points
