"""What the parts of an evaluation agree on: inputs, generated videos, estimators, metrics, and how each may decline.

A benchmark gives `Inputs`, a method turns them into a video, estimators and metrics look at the `Sample` that results.
A part overrides what it has; the attributes below are the defaults of the rest.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np
from jaxtyping import Bool, Float
from torch import Tensor

from mvtrack.geometry.camera import Camera
from tracking_head import Tracks

# What a metric, method or estimator may need beside the videos. Dotted names are estimates: of which video, of what;
# "joint" is the reference's frames, then the generated ones, seen together.
INPUT_NEEDS = ("target", "camera", "source_camera", "dynamic", "covisible", "depth", "target_depth", "tracks")
ESTIMATE_NEEDS = ("generated.poses", "joint.poses", "generated.depth", "reference.depth")
Subject = Literal["generated", "reference", "joint"]
Estimate = dict[str, np.ndarray]

_IN_WORDS = {
    "target": "true target video",
    "source_camera": "cameras of the reference",
    "dynamic": "masks of what moves",
    "covisible": "masks of what the reference sees",
    "target_depth": "depth of the target",
    "tracks": "true tracks",
}


@dataclass(frozen=True)
class Skipped:
    """Why there is no number. skipped: it does not apply, or something is not installed; failed: it should be there."""

    kind: Literal["skipped", "failed"]
    reason: str

    def __str__(self) -> str:
        return f"{self.kind}: {self.reason}"


def skipped(reason: str) -> Skipped:
    return Skipped("skipped", reason)


def failed(reason: str) -> Skipped:
    return Skipped("failed", reason)


@dataclass(frozen=True)
class Inputs:
    """One case of a benchmark at the benchmark's size, before anything was generated. Only real frames are in it.

    reference: RGB in [-1, 1]. camera: (2, T), the reference's cameras and those to render. source_camera_known: whether
    the reference's cameras were measured or are assumed (still, nominal field of view). subject_distance: of what the
    first frame shows, in the cameras' unit, for models that scale paths by it. target: the true video from
    the target cameras, at the frames `target_frames` of the T (a benchmark may not know all). covisible: which
    pixels of those frames the reference sees. dynamic: what moves, in the reference's pixels. depth, target_depth:
    true z-depth of the reference (T) and of the target (all T frames), in the cameras' unit; zero or NaN = unknown.
    tracks: true point tracks in both views (V = 2, T).
    problems: by name of a need, what was wrong with a file that should have given it.
    """

    key: str
    reference: Float[Tensor, "T 3 H W"]
    camera: Camera
    fps: float = 24.0
    caption: str = ""
    source_camera_known: bool = False
    subject_distance: float | None = None
    target: Float[Tensor, "F 3 H W"] | None = None
    target_frames: tuple[int, ...] = ()
    covisible: Bool[Tensor, "F H W"] | None = None
    dynamic: Bool[Tensor, "T H W"] | None = None
    depth: Float[Tensor, "T H W"] | None = None
    target_depth: Float[Tensor, "T H W"] | None = None
    tracks: Tracks | None = None
    problems: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        frames, size = len(self.reference), tuple(self.reference.shape[-2:])
        if self.camera.shape != (2, frames) or self.camera.size != size:
            raise ValueError(
                f"{self.key}: camera must be (2, {frames}) for images of {size}, got {tuple(self.camera.shape)} for "
                f"{self.camera.size}"
            )
        if self.target is not None and len(self.target) != len(self.target_frames):
            raise ValueError(f"{self.key}: {len(self.target)} target frames need as many indices")

    def why_missing(self, need: str) -> Skipped | None:
        """None where a need of `INPUT_NEEDS` is met; what is wrong with its file, or that the benchmark has none."""
        if need in self.problems:
            return failed(self.problems[need])
        if need == "camera":
            return None
        there = self.source_camera_known if need == "source_camera" else getattr(self, need) is not None
        return None if there else skipped(f"this benchmark gives no {_IN_WORDS.get(need, need)}")


@dataclass(frozen=True)
class Sample:
    """A case and the video that a method made of it, as long and as large as the reference.

    file: just these frames on disk (lossless where the project wrote it). estimates: by need, see `ESTIMATE_NEEDS`.
    method: the name of the row that the video belongs to.
    """

    inputs: Inputs
    generated: Float[Tensor, "T 3 H W"]
    file: Path | None = None
    estimates: dict[str, Estimate] = field(default_factory=dict)
    method: str = ""


@dataclass(frozen=True)
class Column:
    """One number that a metric gives. key: unique among all metrics. digits: after the point, in tables.

    better: "none" for a number that is no score, such as the share of the picture that was compared.
    """

    key: str
    title: str
    better: Literal["higher", "lower", "none"]
    digits: int = 3


Scores = dict[str, float | Skipped]


class Part:
    """What metrics, estimators and methods have in common.

    name: letters, digits, `_`, unique. version: raised when the same input gives another result. needs: what it needs
    beside the videos, see above. settings: plain values that the results depend on, the sha256 of weights among them.
    footnotes: what a table must say about these results, one sentence each.
    """

    name: str
    version: ClassVar[int] = 1
    needs: tuple[str, ...] = ()
    settings: dict = {}
    footnotes: tuple[str, ...] = ()

    def missing(self) -> str | None:
        """What is not installed ("DINO weights dino_vitb16.pth: put them into ..."), None when it can run."""
        return None


class Metric(Part):
    """Scores videos. A metric that pays to see many videos at once (another program, a large network) also has
    `score_batch`, which is then called in place of `score`."""

    columns: tuple[Column, ...]

    def score(self, sample: Sample) -> Scores | Skipped:
        """A value or a reason for every column; deterministic. ValueError and OSError count as failed.

        NaN is taken as a failure: where a number has no meaning, decline that column.
        """
        raise NotImplementedError

    def unestimated(self, why: Skipped) -> Scores | Skipped:
        """The scores of a video one of whose estimates failed."""
        return why

    def files(self, method: str, key: str) -> list[Path]:
        """Files that somebody made for one row's case (depth, masks): its score is renewed when they change."""
        return []


class BatchMetric(Metric):
    """Sees many videos at once."""

    def score(self, sample: Sample) -> Scores | Skipped:
        return self.score_batch([sample])[0]

    def score_batch(self, samples: Iterable[Sample]) -> list[Scores | Skipped]:
        """One result a sample, in their order. They are read one by one: keep none, so that any number fits."""
        raise NotImplementedError


class Estimator(Part):
    """Finds something in a video.

    poses: c2w (T, 4, 4) float64, found (T,) bool, and what else the estimator knows (K, size, scale_known,
    rotation_only, median_depth: see `EstimatedCameras.arrays`); of "joint", 2T frames in one world.
    depth: depth (T, H, W) float32, in the unit of the inputs' cameras.
    """

    gives: Literal["poses", "depth"] = "poses"

    def estimate(self, inputs: Inputs, video: Float[Tensor, "N 3 H W"], subject: Subject) -> Estimate | Skipped:
        """Arrays by name, kept in a file that is named by a hash of the video, the inputs and the settings."""
        raise NotImplementedError

    def of_row(self, row: str) -> "Estimator":
        """The estimator for one row's videos, where it finds its results by name. Equal videos of two rows share their
        estimates, as with every estimator."""
        return self


class Method(Part):
    """Makes the video of the target view.

    title, group: its row and the heading above it in tables. bound: knows the truth, so it is never marked as the best.
    backbone: the name of the method, or of the published row, that it is compared to. origin: plain values that make it
    again in a later command, beside its settings: its kind and folder (`methods/existing_rows.py`).
    """

    title: str
    group: str = "Models"
    bound: bool = False
    backbone: str | None = None
    origin: dict = {}

    def find(self, key: str) -> Path | Skipped | None:
        """The video of a case where another program made it; None where `generate` makes it."""
        return None

    def prepare(self, benchmark: "Benchmark", keys: Sequence[str]) -> None:
        """Read once, before the first video, what serves all cases `keys`. ValueError ends the run before any."""

    def generate(self, inputs: Inputs, estimates: dict[str, Estimate]) -> Float[Tensor, "T 3 H W"] | Skipped:
        """The target view, values in [-1, 1]; kept without loss. ValueError and OSError count as failed."""
        raise NotImplementedError


class Benchmark:
    """A list of cases. settings: all that decides what the inputs are. footnotes: choices that a table must state.

    is_miniature: the data was rendered by this project in the benchmark's layout, which every report has to say.
    paper_columns: the columns of its published table by heading. camera_origin: whose first frame cameras are relative
    to where nobody says otherwise, see `CameraMeasure`.
    """

    name: str
    title: str
    size: tuple[int, int]
    num_frames: int  # of a clip; shorter ones are not padded with frames that count
    settings: dict = {}
    footnotes: tuple[str, ...] = ()
    is_miniature: bool = False
    paper_columns: dict[str, tuple[str, ...]] = {}
    camera_origin: Literal["own", "reference"] = "own"

    @property
    def full_title(self) -> str:
        return f"{self.title}, rendered miniature" if self.is_miniature else self.title

    @property
    def all_footnotes(self) -> tuple[str, ...]:
        rendered = (
            f"The data is a rendered miniature: scenes that this project rendered in the layout of {self.title}. No "
            f"sequence of {self.title} is in it, so these figures are not comparable to published ones.",
        )
        return (*(rendered if self.is_miniature else ()), *self.footnotes)

    def case_keys(self) -> list[str]:
        """Names of the cases, fit for files, in order."""
        raise NotImplementedError

    def digest(self, key: str) -> str:
        """sha256 of the files and settings that a case's inputs come from. ValueError when one is missing."""
        raise NotImplementedError

    def load(self, key: str) -> Inputs | Skipped:
        """The inputs, or why a case is left out. ValueError or OSError, naming the file, when it cannot be used."""
        raise NotImplementedError
