"""A re-shot video for 3D programs: the formats, and what each is written by."""

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mvtrack.files.atomic_io import beside, new_folder, refuse_existing
from mvtrack.inference.scene4d.datasets import write_colmap, write_nerfstudio
from mvtrack.inference.scene4d.glb import write_glb
from mvtrack.inference.scene4d.html import write_html
from mvtrack.inference.scene4d.moments import Scene4D
from mvtrack.inference.scene4d.ply import write_ply
from mvtrack.inference.scene4d.result import open_result
from mvtrack.inference.scene4d.usd import write_usd


@dataclass(frozen=True)
class Format:
    """write: into a folder that is there, or a file; returns notes. suffix: of a file; None: it is a folder. points: in
    a file of all moments, where nothing else is asked for; None: all there are."""

    write: Callable[[Scene4D, Path], list[str]]
    suffix: str | None
    points: int | None


FORMATS = {
    "ply": Format(write_ply, None, None),
    "glb": Format(write_glb, ".glb", 2_000_000),
    "usd": Format(write_usd, ".usdc", 6_000_000),
    "colmap": Format(write_colmap, None, None),
    "nerfstudio": Format(write_nerfstudio, None, None),
    "html": Format(write_html, ".html", 3_000_000),
}


@dataclass(frozen=True)
class Exported:
    """path: the file or folder. notes: what the format could not hold."""

    path: Path
    notes: tuple[str, ...]


def export_4d(
    result: Path | str, format: str, out: Path | str | None = None, source: Path | str | None = None,
    points: int | None = None, every: int = 1, overwrite: bool = False,
) -> Exported:  # fmt: skip
    """Write what a re-shot video shows, in one world, for other programs; it appears whole or not at all.

    result: a folder of `mvtrack reshoot`. out: default RESULT_FORMAT, beside it. source: see `open_result`. points,
    every: see `Scene4D`. Raises ValueError for unknown formats, results that cannot be read, and what exists already.
    """
    if format not in FORMATS:
        raise ValueError(f"format must be one of {', '.join(FORMATS)}, got {format!r}")
    known, folder = FORMATS[format], Path(result)
    default = folder.with_name(f"{folder.resolve().name}_{format}" if known.suffix is None else
                               f"{folder.resolve().name}{known.suffix}")  # fmt: skip
    out = Path(out) if out else default
    if known.suffix is None:
        refuse_existing(out, overwrite, folder, source)
    elif out.exists() and not (overwrite and out.is_file()):
        raise ValueError(f"{out} exists already: choose another --out, or pass --overwrite for a file")
    if known.suffix is not None and out.suffix != known.suffix:
        raise ValueError(f"--out {out} must end in {known.suffix}")
    opened = open_result(folder, None if source is None else Path(source))
    if points is None and known.points is not None:
        points = max(16, known.points * every // (2 * opened.camera.shape[1]))
    scene = Scene4D(opened, points, every)
    if known.suffix is not None:
        return Exported(out, tuple(_write_file(known, scene, out)))
    with new_folder(out, overwrite, folder, source) as aside:
        notes = known.write(scene, aside)
        shutil.copy(folder / "cameras.json", aside / "mvtrack_cameras.json")
        tracks = scene.tracks()
        if tracks is not None:
            np.savez_compressed(
                aside / "tracks_3d.npz", xyz=tracks.xyz, visible=tracks.visible, id=np.array(tracks.names),
                frame=np.array(scene.numbers),
            )  # fmt: skip
    return Exported(out, tuple(notes))


def _write_file(known: Format, scene: Scene4D, out: Path) -> list[str]:
    out.parent.mkdir(parents=True, exist_ok=True)
    aside = beside(out, out.suffix)
    try:
        notes = known.write(scene, aside)
        aside.replace(out)
    finally:
        aside.unlink(missing_ok=True)
    return notes
