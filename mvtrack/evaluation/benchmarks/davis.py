"""DAVIS 2016 and 2017: real clips with masks of what moves, re-shot along given paths. No true target views.

Layout: JPEGImages/<resolution>/<sequence>/00000.jpg, Annotations/<resolution>/<sequence>/00000.png. A rendered
miniature (`davis_miniature`) has a folder Truth beside them, with cameras, depth and true target views.
"""

from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Literal

import torch
from jaxtyping import Bool
from torch import Tensor

from mvtrack.config.sizes import FitMode
from mvtrack.data.public.davis import moving_objects
from mvtrack.data.public.files import read_arrays
from mvtrack.evaluation.benchmarks.davis_cameras import measured_source, pose_file_of, source_of_file
from mvtrack.evaluation.benchmarks.davis_list import DavisCase
from mvtrack.evaluation.benchmarks.pictures import BenchmarkOnDisk, fit_masks
from mvtrack.evaluation.interface import Inputs, Skipped, skipped
from mvtrack.evaluation.report.columns import CAMERA, VBENCH
from mvtrack.evaluation.runner.records import hash_of_files
from mvtrack.geometry.camera import Camera
from mvtrack.geometry.presets import PIVOT_M
from mvtrack.geometry.trajectory import moved_along
from mvtrack.geometry.warp import covisible
from mvtrack.inference.camera_estimation.colmap import DEFAULT as COLMAP
from mvtrack.inference.camera_estimation.colmap import colmap_missing
from mvtrack.inference.camera_estimation.source_cameras import AUTO
from mvtrack.video.resize import Fit, still_camera
from tracking_head import Tracks


@dataclass(frozen=True)
class Davis(BenchmarkOnDisk):
    """size, fit: of every picture. num_frames: the first so many of a sequence are used.

    short_clips: sequences with fewer are re-shot at their own length ("score_real") or left out ("skip"). cameras:
    folder with a pose file of any format for each sequence, <sequence>.*, or "auto" to measure them; else the source is
    taken as still, with the horizontal field of view fov_deg. subject_distance: what amounts in metres and arcs refer
    to. A miniature's truth belongs to its own cameras: with others, it is not used.
    resolution: the folder under JPEGImages and under `annotations`, the folder of masks.
    """

    root: Path
    cases: tuple[DavisCase, ...]
    size: tuple[int, int] = (480, 832)
    num_frames: int = 81
    fov_deg: float = 50.0
    subject_distance: float = PIVOT_M
    short_clips: Literal["score_real", "skip"] = "score_real"
    fit: FitMode = "crop"
    cameras: Path | Literal["auto"] | None = None
    resolution: str = "480p"
    annotations: str = "Annotations"
    name = "davis"
    title = "DAVIS"
    paper_columns = {
        "Visual quality": VBENCH,
        "Geometric consistency": ("met3r", "met3r_dynamic"),
        "Camera accuracy": CAMERA,
    }

    def __post_init__(self) -> None:
        if self.cameras == AUTO and (lacking := colmap_missing()):
            raise ValueError(f"source cameras cannot be measured: missing {lacking}, or give a folder of pose files")

    @cached_property
    def by_key(self) -> dict[str, DavisCase]:
        return {case.key: case for case in self.cases}

    @property
    def settings(self) -> dict:
        return {
            "version": 1, "size": list(self.size), "num_frames": self.num_frames, "fov_deg": self.fov_deg,
            "subject_distance": self.subject_distance, "short_clips": self.short_clips, "fit": self.fit,
            "cameras": COLMAP.record() if self.cameras == AUTO else "whole sequence" if self.cameras else False,
            "resolution": self.resolution, "annotations": self.annotations,
        }  # fmt: skip

    @property
    def footnotes(self) -> tuple[str, ...]:
        paths = len({c.trajectory for c in self.cases})
        short = {"score_real": "re-shot at their own length, and only real frames are scored", "skip": "left out"}[
            self.short_clips
        ]
        return (
            f"{len({c.sequence for c in self.cases})} sequences, {paths} different paths, {len(self.cases)} cases; the "
            "paper does not say which it used.",
            f"The first {self.num_frames} frames of each sequence; shorter ones are {short}.",
            f"Pictures {self.fitted}. Source cameras {self._source_words()}.",
            f"Dynamic regions: all objects of {self.annotations}.",
        )

    def _source_words(self) -> str:
        if self.cameras == AUTO:
            return (
                "and their lens measured in each sequence's own frames (pycolmap, annotated objects masked), those of "
                f"frames that were not placed interpolated; a length of {self.subject_distance:g} is the middle depth "
                "of what the first frame shows; sequences that do not tell have failed"
            )
        if self.cameras:
            unit = f"; {self.unit_warning}" if self.unit_warning else ""
            return f"read from pose files in {self.cameras.name}/{unit}"
        return "known" if (self.root / "Truth").is_dir() else f"taken as still, {self.fov_deg:g} degrees wide"

    @cached_property
    def _given(self) -> dict[str, tuple[Camera, tuple[str, ...]]]:
        """By sequence: cameras from its pose file, with notes; not of files that cannot be used, whose cases fail."""
        given = {}
        for case in {case.sequence: case for case in self.cases if isinstance(self.cameras, Path)}.values():
            with suppress(ValueError, OSError):
                given[case.sequence] = source_of_file(pose_file_of(self.cameras, case.sequence), self._pictures(case))
        return given

    @property
    def pose_notes(self) -> tuple[str, ...]:
        """What has to be said of pose files before anything is made with them."""
        unit = () if self.unit_warning is None else (self.unit_warning,)
        return unit + tuple(note for _, notes in self._given.values() for note in notes)

    @cached_property
    def unit_warning(self) -> str | None:
        """What must be said where pose files do not say what a length of 1 is; None where all do."""
        sequences = {case.sequence for case in self.cases}
        unknown = sorted(name for name, (camera, _) in self._given.items() if not camera.scale_known)
        if not unknown:
            return None
        names = ", ".join(unknown[:3]) + (", ..." if len(unknown) > 3 else "")
        return (
            f"{len(unknown)} of {len(sequences)} do not say that they are in metres ({names}): there, a path's metres "
            f"and the subject's distance of {self.subject_distance:g} are taken in the file's own unit"
        )

    def case_keys(self) -> list[str]:
        return [case.key for case in self.cases]

    def digest(self, key: str) -> str:
        case = self.by_key[key]
        frames = self._pictures(case) if self.cameras else self._frames(case)
        there = [path for path in (*self._masks(case, frames), *self._extras(case)) if path.is_file()]
        listed = [case.key, case.trajectory, case.speed, case.caption, [p.name for p in there], len(frames)]
        return hash_of_files([*frames, *there], [self.settings, listed])

    def load(self, key: str) -> Inputs | Skipped:
        case = self.by_key[key]
        files = self._frames(case)
        if len(files) < self.num_frames and self.short_clips == "skip":
            return skipped(f"the clip has {len(files)} frames, fewer than {self.num_frames}")
        video, fit = self.frames(files)
        problems: dict[str, str] = {}
        dynamic = None
        try:
            dynamic = self._dynamic(self._masks(case, files), fit)
        except ValueError as error:
            problems["dynamic"] = str(error)
        source, known = self._source(case, fit, len(files))
        distance = self._distance(case)
        target = moved_along(source, case.path(distance))
        camera = fit.camera(Camera.stack([source, target])).to(dtype=torch.float32)
        inputs = Inputs(
            key, video, camera, caption=case.caption, source_camera_known=known, subject_distance=distance,
            dynamic=dynamic, problems=problems,
        )  # fmt: skip
        return self._with_truth(case, inputs, fit) if self._knows_truth(case) else inputs

    # Files

    def _frames(self, case: DavisCase) -> list[Path]:
        return self._pictures(case)[: self.num_frames]

    def _pictures(self, case: DavisCase) -> list[Path]:
        """Of the whole sequence."""
        folder = self.root / "JPEGImages" / self.resolution / case.sequence
        files = sorted(folder.glob("*.jpg"))
        if not files:
            raise ValueError(f"sequence {case.sequence} is missing: no .jpg in {folder}")
        return files

    def _masks(self, case: DavisCase, frames: list[Path]) -> list[Path]:
        folder = self.root / self.annotations / self.resolution / case.sequence
        return [folder / f"{frame.stem}.png" for frame in frames]

    def _truth(self, case: DavisCase) -> Path:
        return self.root / "Truth" / self.resolution / case.sequence

    def _knows_truth(self, case: DavisCase) -> bool:
        return self.cameras is None and self._truth(case).is_dir()

    def _extras(self, case: DavisCase) -> list[Path]:
        cameras = sorted(self.cameras.glob(f"{case.sequence}.*")) if isinstance(self.cameras, Path) else []
        truth = self._truth(case)
        return [*cameras, *sorted(truth.glob("*")), *sorted((truth / case.path_name).glob("*"))]

    # Contents

    def _dynamic(self, files: list[Path], fit: Fit) -> Bool[Tensor, "T H W"]:
        return fit_masks(moving_objects(files, fit.source).numpy(), self.size, self.fit)

    def _source(self, case: DavisCase, fit: Fit, frames: int) -> tuple[Camera, bool]:
        """The reference's cameras (T,) for pictures of the source's size, and whether they were given."""
        if self.cameras == AUTO:
            pictures = self._pictures(case)
            moving = moving_objects(self._masks(case, pictures), fit.source).numpy()
            return measured_source(pictures[0].parent, moving, self.subject_distance)[:frames], True
        file = self._truth(case) / "cameras.json"
        if self.cameras:
            file = pose_file_of(self.cameras, case.sequence)
        elif not file.is_file():
            return still_camera(self.fov_deg, fit.source, frames), False
        return source_of_file(file, self._pictures(case))[0][:frames], True

    def _distance(self, case: DavisCase) -> float:
        file = self._truth(case) / "depth.npz"
        if self.cameras or not file.is_file():
            return self.subject_distance
        return float(read_arrays(file, "subject_distance")[0])

    def _with_truth(self, case: DavisCase, inputs: Inputs, fit: Fit) -> Inputs:
        """Depth, and where a target of this path was rendered the true video, tracks, and what both views see."""
        frames, folder = len(inputs.reference), self._truth(case)
        depth = fit.nearest(torch.from_numpy(read_arrays(folder / "depth.npz", "depth")[0][:frames]))
        inputs, seen_from = replace(inputs, depth=depth), folder / case.path_name
        if not seen_from.is_dir():
            return inputs
        target, _ = self.frames(sorted(seen_from.glob("*.png"))[:frames])
        target_depth = fit.nearest(torch.from_numpy(read_arrays(seen_from / "depth.npz", "depth")[0][:frames]))
        seen = covisible(target_depth, depth, inputs.camera[1], inputs.camera[0])
        return replace(
            inputs,
            target=target,
            target_frames=tuple(range(frames)),
            covisible=seen,
            target_depth=target_depth,
            tracks=_tracks(seen_from / "tracks.npz", fit, frames),
        )


def _tracks(path: Path, fit: Fit, frames: int) -> Tracks | None:
    """Points of both views for pictures of the benchmark's size; what was cropped away is not visible."""
    if not path.is_file():
        return None
    xy, visible, valid = (torch.from_numpy(array) for array in read_arrays(path, "xy", "visible", "valid"))
    xy = fit.to_picture(xy[:, :frames])
    inside = (xy >= 0).all(-1) & (xy[..., 0] < fit.model[1]) & (xy[..., 1] < fit.model[0])
    return Tracks(xy, visible[:, :frames] & inside, valid)
