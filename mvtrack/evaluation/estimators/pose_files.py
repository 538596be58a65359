"""Cameras that another program estimated: one pose file of any format for each row and case.

Where a video's cameras are compared to the reference's, they have to be in one world: such a file holds the cameras of
the reference's frames first, then those of the video.
"""

from dataclasses import dataclass, replace
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from mvtrack.evaluation.interface import Estimate, Estimator, Inputs, Subject
from mvtrack.evaluation.runner.records import hash_of_files
from mvtrack.geometry.pose_files import read_cameras
from mvtrack.inference.camera_estimation.estimated_cameras import cameras_from_poses

_ASPECT = 0.01


@dataclass(frozen=True)
class PoseFiles(Estimator):
    """Reads <folder>/<row>/<case>.<any> (or a folder <case>, for formats that are one).

    digest: of all these files. num_frames: of a padded clip, whose real frames alone are taken. row: whose video it is.
    """

    folder: Path
    digest: str
    num_frames: int | None = None
    row: str | None = None
    name = "pose_files"

    @staticmethod
    def of(folder: Path, num_frames: int | None = None) -> "PoseFiles":
        """Raises ValueError for a folder that does not exist or holds nothing."""
        files = sorted(p for p in folder.rglob("*") if p.is_file()) if folder.is_dir() else []
        if not files:
            raise ValueError(f"poses.files: {folder} holds no files: put pose files at {folder}/<row>/<case>.json")
        return PoseFiles(folder, hash_of_files(files, [str(p.relative_to(folder)) for p in files]), num_frames)

    def of_row(self, row: str) -> "PoseFiles":
        return replace(self, row=row)

    @property
    def settings(self) -> dict:
        return {"files": self.digest}

    @property
    def footnotes(self) -> tuple[str, ...]:
        return (f"Poses: estimated by another program, read from {self.folder.name}/; every frame has one.",)

    def estimate(self, inputs: Inputs, video: Float[Tensor, "N 3 H W"], subject: Subject) -> Estimate:
        file = self._file(str(self.row), inputs.key)
        camera, frames, size = read_cameras(file).camera, len(inputs.reference), tuple(video.shape[-2:])
        videos = 2 if subject == "joint" else 1
        length = camera.shape[0] // videos
        if camera.shape[0] % videos or length not in (frames, self.num_frames) or length < frames:
            needed = (
                f"one a frame is needed, {frames} of the reference and then {frames} of the video in the same world"
                if subject == "joint"
                else "one a frame is needed"
            )
            raise ValueError(f"{file} holds {camera.shape[0]} cameras, the video {frames} frames: {needed}")
        if abs(camera.size[1] * size[0] / (camera.size[0] * size[1]) - 1) > _ASPECT:
            raise ValueError(
                f"{file} is for pictures of {camera.size[1]}x{camera.size[0]}, the video is {size[1]}x{size[0]}: the "
                "aspects differ"
            )
        real = [part * length + i for part in range(videos) for i in range(frames)]
        camera = camera[real].resized(size)
        found = torch.ones(len(real), dtype=torch.bool)
        return cameras_from_poses(camera.c2w, camera.K, size, found, "file", camera.scale_known).arrays()

    def _file(self, row: str, key: str) -> Path:
        folder = self.folder / row
        there = sorted(p for p in folder.iterdir() if key in (p.stem, p.name)) if folder.is_dir() else []
        if len(there) != 1:
            raise ValueError(f"{folder} holds {len(there)} pose files {key}.*, expected one")
        return there[0]
