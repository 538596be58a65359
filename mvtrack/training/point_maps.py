"""Point maps of still scenes without depth, for the correspondence loss: from files, or by VGGT in its environment."""

import contextlib
import os
import tempfile
from collections.abc import Sequence
from itertools import islice
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor
from tqdm import tqdm

from mvtrack.data.latents import points_file
from mvtrack.files.atomic_io import write_aside
from mvtrack.inference.external_program import ExternalProgram, WorkerError, write_frames
from mvtrack.training.clip_sources import Source

VGGT = "facebook/VGGT-1B"  # not for commercial use
_ENVIRONMENT = "MVTRACK_VGGT_PYTHON"
_AT_ONCE = 32  # scenes a start of the worker
_CELL = 8  # pixels to a point that is kept: a latent


def vggt_program() -> ExternalProgram:
    """The worker in the interpreter that $MVTRACK_VGGT_PYTHON names."""
    python = os.environ.get(_ENVIRONMENT)
    how = f"make an environment with facebookresearch/vggt and name its interpreter in ${_ENVIRONMENT}"
    worker = Path(__file__).parent / "workers/vggt_points_worker.py"
    return ExternalProgram(worker, "vggt", "VGGT", python and Path(python), how)


def estimate_points(sources: Sequence[Source], folder: Path, device: str | None = None, model: str = VGGT) -> int:
    """Write FOLDER/NAME.npy of every scene that has none; returns how many were made. All views of a scene are seen
    together.

    Raises ValueError where VGGT is not installed, WorkerError where it fails or gives other than a map a view.
    """
    todo = [source for source in sources if not points_file(folder, source.name).is_file()]
    program = vggt_program()
    if todo and (lacking := program.missing()):
        raise ValueError(f"point maps cannot be estimated: missing {lacking}; or put files into {folder}")
    made, rest = 0, iter(todo)
    bar = tqdm(total=len(todo), desc=f"point maps into {folder}", unit="scene", disable=not todo)
    while scenes := list(islice(rest, _AT_ONCE)):
        with tempfile.TemporaryDirectory(prefix="mvtrack-vggt-") as name:
            shapes = {}
            for i, source in enumerate(scenes):
                with contextlib.suppress(ValueError):  # of a scene that cannot be read, which preparation lists
                    shapes[i] = _write_pictures(source, Path(name) / f"{i:05d}")
            program.run(Path(name), job={"model": model, "device": device}, result=None)
            for i, (views, grid) in shapes.items():
                points = _read_result(Path(name) / f"{i:05d}" / "points.npy", views, grid)
                folder.mkdir(parents=True, exist_ok=True)
                write_aside(points_file(folder, scenes[i].name), lambda aside, x=points: _save(aside, x))
            made += len(shapes)
            bar.update(len(scenes))
    bar.close()
    return made


def _write_pictures(source: Source, folder: Path) -> tuple[int, tuple[int, int]]:
    """The first frame of every view; how many there are, and the grid of points to keep of each."""
    count, grid = 0, (0, 0)
    for count, view in enumerate(source.views(), 1):
        first = view.video[0]
        write_frames(folder, first.permute(1, 2, 0).numpy()[None], first=count - 1)
        grid = (first.shape[-2] // _CELL, first.shape[-1] // _CELL)
    source.close()
    return count, grid


def _read_result(path: Path, views: int, grid: tuple[int, int]) -> Float[Tensor, "V 3 h w"]:
    if not path.is_file():
        raise WorkerError(f"VGGT left no {path.name} for scene {path.parent.name}")
    points = torch.from_numpy(np.load(path, allow_pickle=False)).float()
    if points.ndim != 4 or tuple(points.shape[:2]) != (views, 3):
        raise WorkerError(f"VGGT gave points of {tuple(points.shape)} for {views} views, expected (V, 3, H, W)")
    return F.interpolate(points, grid, mode="nearest-exact")


def _save(path: Path, points: Float[Tensor, "V 3 h w"]) -> None:
    with path.open("wb") as file:
        np.save(file, points.numpy())
