"""Where new views of a still scene are looked at from: along a path from the first photograph, or at a file's poses."""

import math
from dataclasses import replace
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from mvtrack.geometry.camera import Camera, camera_rays, pixel_grid, project
from mvtrack.geometry.pose_files.parse import shown_path
from mvtrack.geometry.pose_files.sequence import refuse_distortion
from mvtrack.geometry.pose_files.timing import read_with_defaults
from mvtrack.geometry.trajectory import CameraMotion, moved_along, passing_notes

_DEPTHS = (0.5, 0.75, 1.0, 1.5, 2.5, 6.0)  # of the subject's distance, at which a photograph may show what is there
_CELL_SHARE = 32  # cells along the longer side of a picture at which it is asked
NOTED_SHARE = 0.5  # of a view, unseen by every photograph, from which on it is named


def targets_along(path: CameraMotion, first: Camera, count: int) -> tuple[Camera, tuple[str, ...]]:
    """Cameras (M,) along a path that starts at a photograph's camera (no leading shape), with its lens times the
    path's."""
    source = replace(first, c2w=first.c2w.expand(count, 4, 4), K=first.K.expand(count, 3, 3))
    return moved_along(source, path), tuple(passing_notes(path))


def targets_from_file(
    file: Path, options: dict, first: Camera, in_world: bool
) -> tuple[Camera, tuple[str, ...], tuple[str, ...]]:
    """Cameras (M,) of a pose file at its own size, their names, and notes.

    in_world: its poses are in the photographs' world; else in the first photograph's own frame. A file without a lens
    or a size gets the first photograph's.
    """
    fov = 2 * math.degrees(math.atan(0.5 * first.size[1] / float(first.K[0, 0])))
    sequence = read_with_defaults(file, {"size": first.size, "fov": fov}, **options)
    refuse_distortion(sequence, f"new views, which {shown_path(file)} is for,")
    camera = sequence.camera.to(dtype=torch.float64)
    if not in_world:
        camera = replace(camera, c2w=first.c2w.double() @ camera.c2w)
    where = "the photographs' world" if in_world else "the first photograph's frame"
    return camera, sequence.names, (*sequence.notes, f"{shown_path(file)}: its poses are taken in {where}")


def is_pose_file(text: str) -> bool:
    """Whether --targets names a file, not a path of moves. Raises ValueError for a file that is not there."""
    if Path(text).exists():
        return True
    if "/" in text or Path(text).suffix in {".json", ".txt", ".npz", ".bin"}:
        raise ValueError(f"pose file {text} does not exist")
    return False


def unseen_share(target: Camera, photos: list[Camera], subject_distance: float) -> Float[Tensor, "M"]:
    """Share of each target's (M,) picture in which no photograph (no leading shape) looks, whatever is there: along a
    pixel's ray no point from half to six times the subject's distance lies in one."""
    cell = max(1, max(target.size) // _CELL_SHARE)
    size = (target.size[0] // cell * cell, target.size[1] // cell * cell)
    xy = pixel_grid(size, cell).flatten(0, 1).double()
    rays = camera_rays(xy, target.K[:, None].double()) @ target.c2w[:, :3, :3].mT.double()
    depths = subject_distance * torch.tensor(_DEPTHS, dtype=torch.float64)
    points = target.c2w[:, None, None, :3, 3].double() + depths[:, None] * rays[:, :, None]
    seen = torch.zeros(points.shape[:3], dtype=torch.bool)
    for photo in photos:
        at, z = project(points.flatten(0, 2), photo.to(dtype=torch.float64))
        inside = (at >= 0).all(-1) & (at < at.new_tensor(photo.size[::-1])).all(-1) & (z > 0)
        seen |= inside.view(seen.shape)
    return (~seen.any(-1)).double().mean(-1)


def unseen_note(share: Float[Tensor, "M"], names: tuple[str, ...]) -> str | None:
    """What is said of targets that mostly show what no photograph does."""
    worst = [i for i, value in enumerate(share.tolist()) if value > NOTED_SHARE]
    if not worst:
        return None
    shown = ", ".join(names[i] for i in worst[:4]) + (f" and {len(worst) - 4} more" if len(worst) > 4 else "")
    return (
        f"{len(worst)} of {len(share)} new views look mostly where no photograph does: {shown}; up to "
        f"{100 * float(share.max()):.0f} % of a picture is unseen ({100 * float(share.mean()):.0f} % over all), and "
        "made up"
    )
