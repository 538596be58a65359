"""One case while it is worked on: its inputs and its rows' videos; what goes wrong with it is counted, not fatal."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TypeVar

from jaxtyping import Float
from torch import Tensor

from mvtrack.evaluation.interface import Inputs, Skipped, failed
from mvtrack.evaluation.runner.plan import Plan
from mvtrack.evaluation.runner.records import hash_of, read_record
from mvtrack.video.reader import open_video
from mvtrack.video.writer import from_bytes

Result = TypeVar("Result")
_ON_PURPOSE = (ValueError, OSError, RuntimeError)  # their message says all


def guarded(work: Callable[[], Result], about: str = "", debug: bool = False) -> Result | Skipped:
    """What `work` returns, or a failure with its reason after `about`.

    debug: an exception that no part raises on purpose is let through, with its traceback.
    """
    try:
        return work()
    except Exception as error:
        if debug and not isinstance(error, _ON_PURPOSE):
            raise
        message = " ".join(str(error).split())
        if isinstance(error, _ON_PURPOSE) and message:
            return failed(about + message)
        return failed(about + (f"{type(error).__name__}: {message}" if message else type(error).__name__))


@dataclass(frozen=True)
class Case:
    """digest: the hash of the files and settings that its inputs come from."""

    plan: Plan
    key: str
    digest: str

    @staticmethod
    def of(plan: Plan, key: str) -> "Case":
        """A case that cannot be read has the hash of the reason."""
        digest = guarded(lambda: plan.benchmark.digest(key), debug=plan.debug)
        return Case(plan, key, hash_of(f"unreadable: {digest.reason}") if isinstance(digest, Skipped) else digest)

    @cached_property
    def inputs(self) -> Inputs | Skipped:
        """Read when they are first needed."""
        return guarded(lambda: self.plan.benchmark.load(self.key), "inputs: ", self.plan.debug)

    def video(self, row: str) -> "RowVideo | None":
        """A row's video of this case; None where there is none, or one of other inputs."""
        record = read_record(self.plan.video_record(row, self.key))
        is_there = record and record["inputs"] == self.digest and "video" in record
        return RowVideo(self, row, self.plan.folder / record["video"], record) if is_there else None

    def videos(self) -> "Iterator[RowVideo]":
        """Of all rows that have one, one after the other: an iterator, so that their frames need not stay."""
        return (video for row in self.plan.rows if (video := self.video(row)))

    def release(self) -> None:
        """Give the memory of the inputs back; they are read again when they are needed."""
        self.__dict__.pop("inputs", None)


@dataclass(frozen=True)
class RowVideo:
    """The video that a row has of a case. record: what is known of it, its sha256 among others."""

    case: Case
    row: str
    path: Path
    record: dict

    @property
    def sha256(self) -> str:
        return self.record["sha256"]

    @cached_property
    def frames(self) -> Float[Tensor, "T 3 H W"] | Skipped:
        """Its pictures, or why they cannot be scored: the file was damaged or changed since."""
        about = f"the video cannot be read, delete {self.path} to have it made again: "
        video = guarded(self._read, about, self.case.plan.debug)
        expected = self.case.inputs.reference.shape
        if not isinstance(video, Skipped) and video.shape != expected:
            return failed(f"{self.path} is {tuple(video.shape)}, the reference {tuple(expected)}: it was replaced")
        return video

    def release(self) -> None:
        """Give the memory of the frames back."""
        self.__dict__.pop("frames", None)

    def _read(self) -> Tensor:
        return from_bytes(open_video(self.path).read(0, self.record["frames"]))
