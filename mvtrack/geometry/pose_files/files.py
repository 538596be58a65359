"""Pose files in and out: the format is found or given, and results appear whole or not at all."""

import os
import shutil
import tempfile
from pathlib import Path

from mvtrack.geometry.pose_files.formats import PoseFormat, detect, find_format
from mvtrack.geometry.pose_files.options import make_options
from mvtrack.geometry.pose_files.parse import file_size, place_of, shown_path
from mvtrack.geometry.pose_files.sequence import CameraSequence, require_valid

_UNLIMITED = 1 << 62


def read_cameras(path: Path | str, format: str | None = None, **options) -> CameraSequence:
    """The cameras of a pose file or folder, in the project's conventions, float64.

    format: a name of `FORMATS`, or None to find it by the contents. options: what the file does not say; see
    `ReadOptions` for their meaning and units, and `FORMATS[name].options` for those that a format takes. Lens
    distortion, where the file has any, is beside the camera, not in it: `CameraSequence.distortion`.

    Raises ValueError of one line that names the file, the place in it, the value and what was expected.
    """
    return read_with_format(path, format, **options)[0]


def read_with_format(path: Path | str, format: str | None = None, **options) -> tuple[CameraSequence, PoseFormat]:
    """As `read_cameras`, with the format that was given or found."""
    path = Path(path)
    if not os.path.isdir(path):
        file_size(path, _UNLIMITED)  # missing, no file, or a name that cannot be one: said before anything else
    if format is None:
        found, document = detect(path)
    else:
        found, document = find_format(format), None
    checked = make_options(options, found.options, found.name)
    given = {} if document is None else {"document": document}
    return require_valid(found.read(path, checked, **given), place_of(path).file), found


def write_cameras(path: Path | str, sequence: CameraSequence, format: str, overwrite: bool = False) -> Path:
    """Write a pose file, or a folder for the formats that are one, and return its path.

    The result is written beside `path` and renamed, so that it appears whole or not at all. What a format cannot hold
    is an error where leaving it out would change the picture (distortion, skew) and left out otherwise: names, times,
    intrinsics, size and the knowledge of the unit (`formats.held_back` lists them).

    Raises ValueError for cameras that are not valid or that the format cannot hold, and for a path that exists: a file
    is replaced with `overwrite`, a folder never.
    """
    path, found = Path(path), find_format(format)
    require_valid(sequence, "camera sequence")
    made = found.write(sequence)
    if os.path.lexists(path) and not (overwrite and path.is_file() and not found.is_folder):
        more = "" if found.is_folder or not path.is_file() else ", or overwrite it"
        raise ValueError(f"{shown_path(path)} exists already: choose another name{more}")
    if not path.parent.is_dir():
        raise ValueError(f"{shown_path(path.parent)} is no folder: create it first")
    aside = Path(tempfile.mkdtemp(prefix=".poses-", dir=path.parent))
    try:
        whole = aside / "whole"
        if isinstance(made, dict):
            whole.mkdir()
            for name, content in made.items():
                (whole / name).write_bytes(content)
        else:
            whole.write_bytes(made)
        os.replace(whole, path)
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return path
