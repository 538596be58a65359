"""Which points to follow: `grid:20`, a CSV of points, or a mask image; in pixels of the video they are for."""

import csv
import math
import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from mvtrack.video.reader import IMAGE_SUFFIXES
from mvtrack.video.resize import Fit
from mvtrack.video.video import Video

_MASK_POINTS = 256  # about so many in a mask
_COLUMNS = ("frame", "x", "y")
HELP = "grid:20, points.csv (columns frame,x,y and perhaps id), or mask.png; @40 after grid or mask: at video frame 40"


@dataclass(frozen=True)
class Points:
    """N points of one video: frame, x, y in its raster pixels, a name each, and what had to be done to get them."""

    txy: Float[Tensor, "N 3"]
    names: tuple[str, ...]
    notes: tuple[str, ...] = ()

    def where(self, keep: Bool[Tensor, "N"], note: str = "") -> "Points":
        """A selection, with a note about it."""
        names = tuple(name for name, kept in zip(self.names, keep.tolist(), strict=True) if kept)
        return Points(self.txy[keep], names, (*self.notes, *([note] if note else [])))


def points_of_video(text: str, footage: Video, fit: Fit) -> Points:
    """As `read_points`; frames are the file's own, each at the first tick that shows it."""
    points = read_points(text, footage.own_frames, fit)
    ticks = torch.tensor([float(footage.tick_of(int(frame))) for frame in points.txy[:, 0].tolist()])
    return replace(points, txy=torch.cat([ticks[:, None], points.txy[:, 1:]], 1))


def read_points(text: str, num_frames: int, fit: Fit) -> Points:
    """Read what `--tracks` names, for a video of num_frames frames that meets the model as `fit` says.

    A grid is laid over the part of the picture that the model sees; mask points outside it are left out, with a note.
    Raises ValueError that names the file, the line and the fix.
    """
    if text.startswith("grid:"):
        return _grid(text, num_frames, fit)
    name, _, frame = text.rpartition("@")
    path, at = (Path(name), frame) if name and frame.isdigit() else (Path(text), "0")
    if path.suffix.lower() in IMAGE_SUFFIXES:
        return _mask(path, _frame(at, num_frames, text), fit)
    if Path(text).suffix.lower() == ".csv":
        return _csv(Path(text), num_frames, fit)
    raise ValueError(f"cannot read points from {text!r}: give {HELP}")


def _frame(text: str, num_frames: int, where: str) -> int:
    if int(text) >= num_frames:
        raise ValueError(f"{where}: frame {text} is not in the video, which has frames 0 to {num_frames - 1}")
    return int(text)


def seen_region(fit: Fit) -> tuple[float, float, float, float]:
    """Left, top, right, bottom of what the model sees, in pixels of the source."""
    scale_y, scale_x = (s / t for s, t in zip(fit.source, fit.scaled, strict=True))
    (top, left), (height, width) = fit.cut, fit.content
    return left * scale_x, top * scale_y, (left + width) * scale_x, (top + height) * scale_y


def in_region(xy: Float[Tensor, "*any 2"], region: tuple[float, float, float, float]) -> Bool[Tensor, "*any"]:
    """Whether positions lie in left, top, right, bottom."""
    corners = xy.new_tensor(region)
    return ((xy >= corners[:2]) & (xy < corners[2:])).all(-1)


def _grid(text: str, num_frames: int, fit: Fit) -> Points:
    match = re.fullmatch(r"grid:(\d{1,4})(?:@(\d+))?", text)
    if not match or int(match[1]) < 1:
        raise ValueError(f"a grid of points must look like grid:20 or grid:20@40 (20 x 20 at frame 40), got {text!r}")
    side, frame = int(match[1]), _frame(match[2] or "0", num_frames, text)
    left, top, right, bottom = seen_region(fit)
    step = (torch.arange(side) + 0.5) / side
    y, x = torch.meshgrid(top + step * (bottom - top), left + step * (right - left), indexing="ij")
    txy = torch.stack([torch.full_like(x, frame), x, y], -1).flatten(0, 1)
    return Points(txy, tuple(str(i) for i in range(len(txy))))


def _mask(path: Path, frame: int, fit: Fit) -> Points:
    mask = read_mask(path)
    if tuple(mask.shape) != fit.source:
        shape, expected = (f"{size[1]}x{size[0]}" for size in (tuple(mask.shape), fit.source))
        raise ValueError(f"{path} is {shape}, the video is {expected}: draw the mask at the video's size")
    if not mask.any():
        raise ValueError(f"{path} marks nothing: points are taken where it is not black (or not transparent)")
    rows, columns = mask.nonzero().unbind(-1)
    step = max(1.0, math.sqrt(len(rows) / _MASK_POINTS))
    y = torch.arange(int(rows.min()) + step / 2, int(rows.max()) + 1, step)
    x = torch.arange(int(columns.min()) + step / 2, int(columns.max()) + 1, step)
    xy = torch.stack(torch.meshgrid(y, x, indexing="ij")[::-1], -1).flatten(0, 1)
    xy = xy[mask[xy[:, 1].long(), xy[:, 0].long()]]
    if len(xy) == 0:  # thinner than the grid
        xy = torch.stack([columns, rows], -1)[:: max(1, len(rows) // _MASK_POINTS)] + 0.5
    txy = torch.cat([torch.full((len(xy), 1), float(frame)), xy], -1)
    points = Points(txy, tuple(str(i) for i in range(len(txy))))
    keep = in_region(txy[:, 1:], seen_region(fit))
    if not keep.any():
        raise ValueError(f"{path} marks only what the model's picture leaves out: use --fit pad")
    lost = int((~keep).sum())
    note = f"{path}: {lost} of {len(keep)} points lie where the model's picture ends and are left out (see --fit)"
    return points.where(keep, note if lost else "")


def read_mask(path: Path) -> Bool[Tensor, "H W"]:
    """Where an image is not black; with an alpha channel, where it is not transparent either."""
    import cv2
    import numpy as np

    if not path.is_file():
        raise ValueError(f"mask {path} does not exist")
    image = cv2.imdecode(np.fromfile(path, np.uint8), cv2.IMREAD_UNCHANGED) if path.stat().st_size else None
    if image is None:
        raise ValueError(f"cannot read {path} as an image: it is empty, damaged or of an unknown format")
    image = torch.from_numpy(image if image.ndim == 3 else image[..., None])
    marked = (image[..., :3] > 0).any(-1)
    return marked & (image[..., 3] > 0) if image.shape[-1] == 4 else marked


def _csv(path: Path, num_frames: int, fit: Fit) -> Points:
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file, strict=True, skipinitialspace=True)
            rows, names = [(reader.line_num, row) for row in reader], reader.fieldnames or []
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"cannot read {path} as a CSV: {error}") from error
    if not set(_COLUMNS) <= set(names) or not set(names) <= {*_COLUMNS, "id"}:
        raise ValueError(f"{path} needs a first line frame,x,y (and perhaps id); it has {','.join(map(str, names))!r}")
    if not rows:
        raise ValueError(f"{path} has no points below its first line")
    txy = torch.tensor([_row(row, f"{path} line {line}", num_frames, fit) for line, row in rows])
    found = tuple(row.get("id") or str(i) for i, (_, row) in enumerate(rows))
    _refuse_repeats(path, found, (line for line, _ in rows))
    return Points(txy, found)


def _row(row: dict, where: str, num_frames: int, fit: Fit) -> list[float]:
    if None in row or any(value is None for value in row.values()):
        raise ValueError(f"{where}: expected as many values as columns, got {list(row.values())}")
    values = []
    for name in _COLUMNS:
        try:
            values.append(float(row[name]))
        except ValueError as error:
            raise ValueError(f"{where}: {name} must be a number, got {row[name]!r}") from error
    frame, x, y = values
    (height, width), shown = fit.source, f"x={x:g}, y={y:g}"
    if not (frame.is_integer() and 0 <= frame < num_frames):
        raise ValueError(f"{where}: frame must be a whole number from 0 to {num_frames - 1}, got {row['frame']}")
    if not (0 <= x < width and 0 <= y < height):
        raise ValueError(f"{where}: {shown} is outside the video's {width}x{height} pixels")
    if not in_region(torch.tensor([x, y]), seen_region(fit)):
        raise ValueError(f"{where}: {shown} lies where the model's picture has ended already: use --fit pad")
    return values


def _refuse_repeats(path: Path, names: tuple[str, ...], lines: Iterable[int]) -> None:
    first: dict[str, int] = {}
    for name, line in zip(names, lines, strict=True):
        if name in first:
            raise ValueError(f"{path} line {line}: id {name!r} was given on line {first[name]} already")
        first[name] = line


def to_model(xy: Float[Tensor, "*any 2"], fit: Fit) -> Float[Tensor, "*any 2"]:
    """Raster pixels of the source as raster pixels of the model's picture."""
    scale = xy.new_tensor([fit.scaled[1] / fit.source[1], fit.scaled[0] / fit.source[0]])
    return xy * scale + xy.new_tensor([fit.place[1] - fit.cut[1], fit.place[0] - fit.cut[0]])


def to_source(xy: Float[Tensor, "*any 2"], fit: Fit) -> Float[Tensor, "*any 2"]:
    """The other way round."""
    scale = xy.new_tensor([fit.source[1] / fit.scaled[1], fit.source[0] / fit.scaled[0]])
    return (xy - xy.new_tensor([fit.place[1] - fit.cut[1], fit.place[0] - fit.cut[0]])) * scale
