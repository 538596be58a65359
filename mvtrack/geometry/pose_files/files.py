"""Pose files in and out: the format is found or given, and results appear whole or not at all."""

import os
import shutil
import tempfile
from dataclasses import replace
from pathlib import Path

from mvtrack.geometry.pose_files.distortion import largest_displacement_px
from mvtrack.geometry.pose_files.options import make_options
from mvtrack.geometry.pose_files.parse import shown_path
from mvtrack.geometry.pose_files.registry import FORMATS, detect, find_format
from mvtrack.geometry.pose_files.sequence import CameraSequence, require_valid
from mvtrack.geometry.pose_files.source import PoseFormat, PoseSource


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
    source = PoseSource(path)
    known = detect(source) if format is None else find_format(format)
    checked = make_options(options, known.options, known.name)
    sequence = require_valid(known.read(source, checked), source.place.file)
    return _without_distortion(sequence) if checked.drop_distortion else sequence, known


def shared_options(paths: list[Path], given: dict) -> list[dict]:
    """Options that were given once for several files: for each of them those that its format takes, and those that none
    takes, which reading refuses."""
    if not given:
        return [given] * len(paths)
    named = given.get("format")
    formats = [detect(PoseSource(path)) if named is None else find_format(named) for path in paths]
    taken = {name for known in formats for name in known.options}
    return [{k: v for k, v in given.items() if k in known.options or k not in taken} for known in formats]


def _without_distortion(sequence: CameraSequence) -> CameraSequence:
    if sequence.distortion is None:
        return sequence
    camera = sequence.camera
    moved = largest_displacement_px(camera.K, camera.size, sequence.distortion)
    text = f"its lens distortion, up to {moved:.1f} px at {camera.size[1]}x{camera.size[0]}, is left out"
    return replace(sequence, distortion=None, notes=(*sequence.notes, text))


def write_cameras(path: Path | str, sequence: CameraSequence, format: str, overwrite: bool = False) -> Path:
    """Write a pose file, or a folder for the formats that are one, and return its path.

    The result is written beside `path` and renamed, so that it appears whole or not at all. What a format cannot hold
    is an error where leaving it out would change the picture (distortion, skew) and left out otherwise: names, times,
    intrinsics, size, points and the knowledge of the unit (`registry.held_back` lists them).

    Raises ValueError for cameras that are not valid or that the format cannot hold, and for a path that exists: a file
    is replaced with `overwrite`, a folder never.
    """
    path, target = Path(path), find_format(format)
    if target.write is None:
        writable = ", ".join(name for name, known in FORMATS.items() if known.write)
        raise ValueError(f"format {target.name} is only read; write one of {writable}")
    require_valid(sequence, "camera sequence")
    made = target.write(sequence)
    if os.path.lexists(path) and not (overwrite and path.is_file() and not target.is_folder):
        more = "" if target.is_folder or not path.is_file() else ", or overwrite it"
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
