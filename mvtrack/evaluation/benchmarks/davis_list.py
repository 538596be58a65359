"""Which sequences of DAVIS are re-shot along which paths: a list made by a rule, or read from a CSV."""

import csv
import io
import re
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Literal, get_args

from mvtrack.evaluation.runner.records import write_text
from mvtrack.geometry.path_language import parse_path
from mvtrack.geometry.presets import PRESETS, SPEEDS
from mvtrack.geometry.trajectory import CameraMotion, CameraPath

Rule = Literal["all10", "round_robin"]
RULES: tuple[Rule, ...] = get_args(Rule)


@dataclass(frozen=True)
class DavisCase:
    """One row. trajectory: a preset's name (full ReCamMaster amount), or a path in the path language."""

    sequence: str
    trajectory: str
    speed: str = "linear"
    caption: str = ""

    def __post_init__(self) -> None:
        if not self.sequence or re.search(r"[\s/\\]", self.sequence):
            raise ValueError(f"sequence {self.sequence!r} is no folder name")
        if self.speed not in SPEEDS:
            raise ValueError(f"unknown speed {self.speed!r}; known: {', '.join(SPEEDS)}")
        if self.trajectory not in PRESETS and self.speed != "linear":
            raise ValueError(
                f"speed {self.speed!r} is for a preset; write it into the path {self.trajectory!r} instead"
            )
        self.path(1.0)

    @property
    def path_name(self) -> str:
        """The path as part of a file name."""
        speed = "" if self.speed == "linear" else f"-{self.speed}"
        return re.sub(r"[^A-Za-z0-9.]+", "_", self.trajectory).strip("_") + speed

    @property
    def key(self) -> str:
        return f"{self.sequence}--{self.path_name}"

    def path(self, subject_distance: float) -> CameraMotion:
        """The camera path, relative to the reference's first frame."""
        if self.trajectory in PRESETS:
            return CameraPath(self.trajectory, pivot_m=subject_distance, speed=self.speed)
        return parse_path(self.trajectory, subject_distance)


def make_list(sequences: list[str], rule: Rule) -> tuple[DavisCase, ...]:
    """All ten presets for every sequence, or one preset for each, in turn."""
    if rule not in RULES:
        raise ValueError(f"unknown rule {rule!r}; known: {', '.join(RULES)}")
    presets = list(PRESETS)
    if rule == "all10":
        return tuple(DavisCase(s, p) for s in sequences for p in presets)
    return tuple(DavisCase(s, presets[i % len(presets)]) for i, s in enumerate(sequences))


def find_sequences(root: Path, resolution: str, split: str | None) -> list[str]:
    """Names of the sequences: those of a split file under ImageSets (2016/val, 2017/val, 480p/val), or all folders.

    Reads both forms: a name a line (2017), or a line of image and mask paths a frame (2016).
    """
    images = root / "JPEGImages" / resolution
    if not images.is_dir():
        there = sorted(p.name for p in images.parent.glob("*/"))
        known = f"; davis.resolution may be {', '.join(there)}" if there else ""
        raise ValueError(f"{images} is no folder: --data must be the folder that holds JPEGImages{known}")
    if split is None:
        names = sorted(p.name for p in images.iterdir() if p.is_dir())
    else:
        file = root / "ImageSets" / f"{split}.txt"
        if not file.is_file():
            known = sorted(
                str(p.relative_to(root / "ImageSets").with_suffix("")) for p in file.parents[1].rglob("*.txt")
            )
            raise ValueError(f"split {split!r}: {file} does not exist; there are: {', '.join(known) or 'none'}")
        rows = [line.split()[0] for line in file.read_text().splitlines() if line.strip()]
        names = list(dict.fromkeys(row.strip("/").split("/")[-2] if "/" in row else row for row in rows))
    if not names:
        raise ValueError(f"no sequences in {images}")
    return names


def read_list(path: Path) -> tuple[DavisCase, ...]:
    """Rows of a CSV with columns sequence, trajectory and, if wanted, speed and caption."""
    try:
        with path.open(newline="", encoding="utf-8") as file:
            reader = csv.DictReader(file, strict=True)
            rows = list(reader)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"cannot read {path} as a CSV: {error}") from error
    names, known = reader.fieldnames or [], [f.name for f in fields(DavisCase)]
    if not {"sequence", "trajectory"} <= set(names) <= set(known):
        raise ValueError(f"{path} needs columns sequence, trajectory and may have speed, caption; it has {names}")
    cases = []
    for number, row in enumerate(rows, 2):
        if None in row or None in row.values():
            raise ValueError(f"{path} line {number}: expected {len(names)} values")
        try:
            cases.append(DavisCase(**{k: v for k, v in row.items() if v}))
        except (ValueError, TypeError) as error:
            raise ValueError(f"{path} line {number}: {error}") from error
    if not cases:
        raise ValueError(f"{path} has no rows below its header")
    return tuple(cases)


def write_list(path: Path, cases: tuple[DavisCase, ...]) -> None:
    """The CSV that `read_list` reads; it appears whole."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([f.name for f in fields(DavisCase)])
    writer.writerows([c.sequence, c.trajectory, c.speed, c.caption] for c in cases)
    write_text(path, text.getvalue())
