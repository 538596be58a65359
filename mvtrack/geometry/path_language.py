"""A small language for camera paths: `arc_left 30deg; dolly_in 0.5 ease`.

`;` joins moves one after another, `+` moves at the same time. A move is a name, then in any order an amount with its
unit (deg, m, d = subject distances, x = lens factor), a speed curve, `for 40%` (its share of the time) and `free`
(keep the orientation where the move would look at the subject).
"""

import difflib
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from mvtrack.geometry.presets import PIVOT_M, PRESETS, SPEEDS
from mvtrack.geometry.trajectory import CameraPath

# name: (unit, amount of a move without one, opposite)
_MOVES: dict[str, tuple[str, float, str]] = {name: (p.unit, p.amount, p.mirror) for name, p in PRESETS.items()} | {
    "dolly_in": ("m", 1.0, "dolly_out"),
    "dolly_out": ("m", 1.0, "dolly_in"),
    "truck_left": ("m", 1.0, "truck_right"),
    "truck_right": ("m", 1.0, "truck_left"),
    "pedestal_up": ("m", 1.0, "pedestal_down"),
    "pedestal_down": ("m", 1.0, "pedestal_up"),
    "orbit_left": ("deg", 30.0, "orbit_right"),
    "orbit_right": ("deg", 30.0, "orbit_left"),
    "orbit_up": ("deg", 30.0, "orbit_down"),
    "orbit_down": ("deg", 30.0, "orbit_up"),
    "dolly_zoom": ("m", 1.0, "dolly_zoom_out"),
    "dolly_zoom_out": ("m", 1.0, "dolly_zoom"),
    "roll_left": ("deg", 10.0, "roll_right"),
    "roll_right": ("deg", 10.0, "roll_left"),
    "lens_in": ("x", 1.5, "lens_out"),
    "lens_out": ("x", 1.5, "lens_in"),
    "spiral_left": ("m", 0.5, "spiral_right"),
    "spiral_right": ("m", 0.5, "spiral_left"),
    "handheld": ("m", 0.05, "handheld"),
    "static": ("deg", 0.0, "static"),
}
_AMOUNT = re.compile(r"([-+]?(?:\d+\.?\d*|\.\d+)(?:e[-+]?\d+)?)(deg|°|m|d|x)?")
MAX_MOVES = 100
_NEAREST_ZOOM = 0.9  # of the subject's distance, that a dolly zoom may come closer


@dataclass(frozen=True)
class Move:
    """One movement. amount is in `unit`; None takes the move's own. Signed: a negative amount is the opposite move."""

    name: str
    amount: float | None = None
    unit: str | None = None
    speed: str = "linear"
    look_at: bool = True

    def __post_init__(self) -> None:
        if self.name not in _MOVES:
            close = difflib.get_close_matches(self.name, _MOVES, n=1)
            hint = f"; did you mean {close[0]!r}?" if close else ""
            raise ValueError(f"unknown camera move {self.name!r}{hint} Known: {', '.join(_MOVES)}")
        own = _MOVES[self.name][0]
        unit = self.unit or own
        if unit != own and not (unit == "d" and own == "m"):
            raise ValueError(f"{self.name} takes {own}{' or d' if own == 'm' else ''}, got {self.amount:g}{unit}")
        if self.amount is not None and not math.isfinite(self.amount):
            raise ValueError(f"{self.name}: the amount must be a finite number, got {self.amount}")
        if own == "x" and self.amount is not None and not 0.05 <= self.amount <= 20:
            raise ValueError(f"{self.name}: the lens factor must lie in [0.05, 20], got {self.amount:g}")
        if self.name in PRESETS and own == "deg":
            CameraPath(self.name, self.amount)  # refuses what it cannot do
        elif own == "deg" and abs(self.amount or 0) > _most_degrees(self.name):
            raise ValueError(f"{self.name} takes up to {_most_degrees(self.name)} degrees, got {self.amount:g}")
        if self.amount == (1 if own == "x" else 0) and self.name != "static":
            raise ValueError(f"{self.name} {self.amount:g} moves nothing: give an amount, or `static` to rest")

    def full_amount(self, pivot_m: float) -> float:
        """Degrees, metres, or a factor."""
        amount = _MOVES[self.name][1] if self.amount is None else self.amount
        return amount * pivot_m if self.unit == "d" else amount

    def mirrored(self) -> "Move":
        """The opposite move."""
        return replace(self, name=_MOVES[self.name][2])

    def poses_at(self, progress: Float[Tensor, "T"], pivot_m: float) -> Float[Tensor, "T 4 4"]:
        """Pose after given fractions of the move, relative to where it began (float64)."""
        kind, _, direction = self.name.rpartition("_")
        if self.name.startswith("dolly_zoom"):
            return _moved(progress, 2, self._zoomed_dolly(progress, pivot_m))
        if self.name in ("orbit_up", "orbit_down"):
            kind = "orbit_vertical"
        if self.name in PRESETS:
            amount = None if self.amount is None else self.full_amount(pivot_m)
            return CameraPath(self.name, amount, pivot_m, self.look_at).poses_at(progress)
        if kind in ("", "lens"):
            return _shake(progress, self.full_amount(pivot_m)) if self.name == "handheld" else _identity(progress)
        sign = 1.0 if direction in ("right", "up", "in") else -1.0
        done = sign * self.full_amount(pivot_m) * progress
        return _MOTIONS[kind](done, progress, pivot_m, self.look_at)

    def _zoomed_dolly(self, progress: Float[Tensor, "T"], pivot_m: float) -> Float[Tensor, "T"]:
        """Metres ahead. Raises ValueError where that leads to the subject, at which the lens would have no length."""
        ahead = self.full_amount(pivot_m) * (-1 if self.name == "dolly_zoom_out" else 1)
        if ahead > _NEAREST_ZOOM * pivot_m:
            raise ValueError(
                f"{self.name} {ahead:g}m leads to the subject, {pivot_m:g} away: at most {_NEAREST_ZOOM * pivot_m:g}"
            )
        return ahead * progress

    def lens_at(self, progress: Float[Tensor, "T"], pivot_m: float) -> Float[Tensor, "T"]:
        """Focal length over the one at the beginning."""
        if self.name.startswith("dolly_zoom"):  # the subject keeps its size
            return 1 - self._zoomed_dolly(progress, pivot_m) / pivot_m
        if not self.name.startswith("lens"):
            return torch.ones_like(progress)
        factor = math.log(self.full_amount(1.0)) * (1 if self.name == "lens_in" else -1)
        return torch.exp(factor * progress)


def _most_degrees(name: str) -> int:
    return 360 if name.startswith("orbit") else 179


def _identity(progress: Float[Tensor, "T"]) -> Float[Tensor, "T 4 4"]:
    return torch.eye(4, dtype=torch.float64).repeat(len(progress), 1, 1)


def _moved(progress: Float[Tensor, "T"], axis: int, distance: Float[Tensor, "T"]) -> Float[Tensor, "T 4 4"]:
    pose = _identity(progress)
    pose[:, axis, 3] = distance
    return pose


def _roll(done: Tensor, progress: Tensor, pivot_m: float, look_at: bool) -> Float[Tensor, "T 4 4"]:
    """Clockwise for the viewer (roll_right) turns the camera about its own axis."""
    angle, pose = torch.deg2rad(done), _identity(progress)
    pose[:, 0, 0] = pose[:, 1, 1] = angle.cos()
    pose[:, 0, 1], pose[:, 1, 0] = -angle.sin(), angle.sin()
    return pose


def _orbit(done: Tensor, progress: Tensor, pivot_m: float, look_at: bool) -> Float[Tensor, "T 4 4"]:
    """On the circle around the subject; the distance stays the same, unlike ReCamMaster's arc along the chord."""
    angle = torch.deg2rad(done)
    turn = CameraPath("pan_left", amount=1.0).poses_at(done) if look_at else _identity(progress)
    turn[:, 0, 3] = pivot_m * angle.sin()
    turn[:, 2, 3] = pivot_m * (1 - angle.cos())
    return turn


def _orbit_vertical(done: Tensor, progress: Tensor, pivot_m: float, look_at: bool) -> Float[Tensor, "T 4 4"]:
    """As `_orbit`, over the subject (orbit_up) or under it."""
    angle = torch.deg2rad(done)
    turn = CameraPath("tilt_down", amount=1.0).poses_at(done) if look_at else _identity(progress)
    turn[:, 1, 3] = -pivot_m * angle.sin()
    turn[:, 2, 3] = pivot_m * (1 - angle.cos())
    return turn


def _spiral(done: Tensor, progress: Tensor, pivot_m: float, look_at: bool) -> Float[Tensor, "T 4 4"]:
    """Two turns of a helix that opens up to the amount and closes again, looking at the subject."""
    radius = done * torch.sin(math.pi * progress)
    angle = 4 * math.pi * progress
    x, y = radius * angle.cos(), radius.abs() * angle.sin()
    pose = _identity(progress)
    if look_at:
        yaw = CameraPath("pan_left", amount=1.0).poses_at(torch.rad2deg(torch.atan2(x, torch.full_like(x, pivot_m))))
        distance = (x.square() + pivot_m**2).sqrt()
        pose = yaw @ CameraPath("tilt_up", amount=1.0).poses_at(torch.rad2deg(torch.atan2(y, distance)))
    pose[:, 0, 3], pose[:, 1, 3] = x, y
    return pose


def _shake(progress: Float[Tensor, "T"], amount: float) -> Float[Tensor, "T 4 4"]:
    """Slow irregular sway in all six directions, the same every time: `amount` metres, and degrees of 20 x amount."""
    rates = torch.tensor([[1.3, 3.1], [1.7, 2.9], [0.9, 2.3], [1.1, 3.7], [1.5, 2.7], [0.7, 1.9]], dtype=torch.float64)
    phases = torch.tensor([[0.3, 2.1], [1.9, 0.7], [4.0, 5.2], [2.6, 3.3], [5.5, 1.2], [0.9, 4.4]], dtype=torch.float64)
    angle = 2 * math.pi * progress[:, None, None] * rates + phases
    wave = (angle.sin() - phases.sin()).sum(-1) / 2
    pan = CameraPath("pan_right", amount=1.0).poses_at(20 * amount * wave[:, 3])
    tilt = CameraPath("tilt_up", amount=1.0).poses_at(20 * amount * wave[:, 4])
    pose = pan @ tilt @ _roll(10 * amount * wave[:, 5], progress, 1.0, True)
    pose[:, :3, 3] = amount * wave[:, :3]
    return pose


_MOTIONS = {
    "dolly": lambda done, progress, pivot, look: _moved(progress, 2, done),
    "truck": lambda done, progress, pivot, look: _moved(progress, 0, done),
    "pedestal": lambda done, progress, pivot, look: _moved(progress, 1, -done),
    "roll": _roll,
    "orbit": _orbit,
    "orbit_vertical": _orbit_vertical,
    "spiral": _spiral,
}


@dataclass(frozen=True)
class Segment:
    """Moves at the same time, over a share of the whole."""

    moves: tuple[Move, ...]
    share: float

    def poses_at(self, progress: Float[Tensor, "T"], pivot_m: float) -> Float[Tensor, "T 4 4"]:
        pose = _identity(progress)
        for move in self.moves:
            pose = pose @ move.poses_at(SPEEDS[move.speed](progress), pivot_m)
        return pose

    def lens_at(self, progress: Float[Tensor, "T"], pivot_m: float) -> Float[Tensor, "T"]:
        lens = torch.ones_like(progress)
        for move in self.moves:
            lens = lens * move.lens_at(SPEEDS[move.speed](progress), pivot_m)
        return lens


@dataclass(frozen=True)
class ComposedPath:
    """Segments one after another, each going on from where the last one ended. Begins at the reference's first frame.

    pivot_m: distance of the subject in metres, for `d` amounts and for moves that look at it.
    """

    segments: tuple[Segment, ...]
    pivot_m: float = PIVOT_M
    label: str = "path"  # a short name for files and titles

    def __post_init__(self) -> None:
        if not self.pivot_m > 0 or not math.isfinite(self.pivot_m):
            raise ValueError(f"the subject's distance must be a positive number, got {self.pivot_m}")

    def mirrored(self) -> "ComposedPath":
        """Every move replaced by its opposite."""
        segments = tuple(replace(s, moves=tuple(m.mirrored() for m in s.moves)) for s in self.segments)
        return replace(self, segments=segments)

    def poses(self, num_frames: int) -> Float[Tensor, "T 4 4"]:
        """Camera-to-world matrices (float64) at equally spaced times."""
        pose = torch.empty(num_frames, 4, 4, dtype=torch.float64)
        begin = torch.eye(4, dtype=torch.float64)
        for segment, index, progress in self._pieces(num_frames):
            pose[index] = begin @ segment.poses_at(progress, self.pivot_m)
            begin = begin @ segment.poses_at(torch.ones(1, dtype=torch.float64), self.pivot_m)[0]
        return pose

    def lens(self, num_frames: int) -> Float[Tensor, "T"]:
        """Focal length over the source's at equally spaced times."""
        lens, factor = torch.empty(num_frames, dtype=torch.float64), 1.0
        for segment, index, progress in self._pieces(num_frames):
            lens[index] = factor * segment.lens_at(progress, self.pivot_m)
            factor *= float(segment.lens_at(torch.ones(1, dtype=torch.float64), self.pivot_m))
        return lens

    def _pieces(self, num_frames: int) -> Iterator[tuple[Segment, Int[Tensor, "n"], Float[Tensor, "n"]]]:
        """(segment, its frames, their progress in it); a frame on a border belongs to the earlier segment."""
        if num_frames < 1:
            raise ValueError(f"num_frames must be at least 1, got {num_frames}")
        time = torch.linspace(0, 1, num_frames, dtype=torch.float64) if num_frames > 1 else torch.ones(1).double()
        ends = torch.tensor([s.share for s in self.segments], dtype=torch.float64).cumsum(0)
        ends[-1] = 1.0
        owner = torch.bucketize(time - 1e-12, ends)
        for i, segment in enumerate(self.segments):
            index = (owner == i).nonzero()[:, 0]
            start = float(ends[i - 1]) if i else 0.0
            yield segment, index, ((time[index] - start) / (float(ends[i]) - start)).clamp(0, 1)


def parse_path(text: str, pivot_m: float = PIVOT_M) -> ComposedPath:
    """Read a path. Raises ValueError that shows the part that is not understood and what was expected."""
    parts = [part.strip() for part in text.split(";")]
    if not any(parts):
        raise ValueError("the camera path is empty: give a move, such as arc_left, or several joined by ; or +")
    if sum(part.count("+") + 1 for part in parts) > MAX_MOVES:
        raise ValueError(f"the camera path has more than {MAX_MOVES} moves")
    if not all(parts[:-1]):
        raise ValueError(f"a move is missing beside ; in {text!r}")
    segments = [_parse_segment(part, text) for part in parts if part]
    given = [share for _, share in segments if share is not None]
    if sum(given) > 1 + 1e-9 or (len(given) == len(segments) and abs(sum(given) - 1) > 1e-6):
        raise ValueError(f"the shares in {text!r} add up to {100 * sum(given):g}%, not to 100%")
    open_count = len(segments) - len(given)
    rest = (1 - sum(given)) / open_count if open_count else 0.0
    if open_count and rest <= 0:
        raise ValueError(f"the shares in {text!r} leave no time for the other moves")
    names = "_".join(move.name for moves, _ in segments for move in moves)
    timed = tuple(Segment(moves, rest if s is None else s) for moves, s in segments)
    return ComposedPath(timed, pivot_m, names if len(names) <= 60 else "path")


def _parse_segment(part: str, whole: str) -> tuple[tuple[Move, ...], float | None]:
    # a + between moves stands alone or before a name; +0.5 is a number
    pieces = [p.strip() for p in re.split(r"\+(?=\s*[A-Za-z])", part)]
    moves, shares = zip(*(_parse_move(piece, whole) for piece in pieces), strict=True)
    given = {share for share in shares if share is not None}
    if len(given) > 1:
        raise ValueError(f"moves at the same time have different shares in {part!r}")
    return moves, given.pop() if given else None


def _parse_move(piece: str, whole: str) -> tuple[Move, float | None]:
    words = piece.split()
    if not words:
        raise ValueError(f"a move is missing beside + or ; in {whole!r}")
    name, share = words[0], None
    settings: dict[str, Any] = {}
    rest = iter(words[1:])
    for word in rest:
        amount = _AMOUNT.fullmatch(word)
        if word == "for":
            share = _parse_share(next(rest, ""), piece)
        elif word == "free":
            settings["look_at"] = False
        elif word in SPEEDS:
            settings["speed"] = word
        elif amount and "amount" not in settings:
            unit = amount[2].replace("°", "deg") if amount[2] else None
            settings |= {"amount": float(amount[1]), "unit": unit}
        else:
            close = difflib.get_close_matches(word, [*SPEEDS, "for", "free"], n=1)
            hint = f"did you mean {close[0]!r}?" if close else "expected an amount, a speed, `for N%` or `free`"
            raise ValueError(f"{word!r} in {piece!r} is not understood: {hint}")
    return Move(name, **settings), share


def _parse_share(word: str, piece: str) -> float:
    match = re.fullmatch(r"(\d+\.?\d*)%", word)
    if not match or not 0 < float(match[1]) <= 100:
        raise ValueError(
            f"`for` in {piece!r} needs a percentage above 0 and up to 100, such as `for 40%`; got {word!r}"
        )
    return float(match[1]) / 100
