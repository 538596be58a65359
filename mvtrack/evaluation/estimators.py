"""Where poses and depth of videos come from: structure from motion, networks, pose files, the truth, plane sweeps."""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from mvtrack.evaluation.interface import Estimate, Estimator, Inputs, Skipped, Subject, skipped
from mvtrack.evaluation.runner.records import hash_of_files
from mvtrack.geometry.camera import Camera
from mvtrack.geometry.plane_sweep import plane_sweep_depth
from mvtrack.geometry.pose_files import read_cameras
from mvtrack.geometry.splat import splat
from mvtrack.inference.camera_estimation.colmap import DEFAULT, ColmapConfig, colmap_missing, recover_with_colmap
from mvtrack.inference.camera_estimation.depth_anything import DepthAnythingConfig, recover_with_depth_anything
from mvtrack.inference.camera_estimation.estimated_cameras import EstimatedCameras, cameras_from_poses
from mvtrack.models.weights.consent import consent_lacking
from mvtrack.video.writer import to_bytes

_TOUCHED = 0.1  # share of a pixel that a moving thing covers
_WIDENED = 1 / 80  # of the picture's width, to each side


@dataclass(frozen=True)
class ColmapPoses(Estimator):
    """K is the benchmark's and kept; where both videos share one lens that is only assumed, it is measured too."""

    config: ColmapConfig = DEFAULT
    name = "colmap"
    footnotes = (
        "Poses: pycolmap, SIFT, the benchmark's lenses; the better of incremental and global mapping, or a camera "
        "that turns on the spot where that explains the matches. What moves is masked where the benchmark says "
        "it, in generated videos by the references' masks, carried along the target path (by true depth, else "
        "at the subject's distance) and widened. Not comparable to learned estimators' figures.",
    )

    @property
    def settings(self) -> dict:
        return self.config.record()

    def missing(self) -> str | None:
        return colmap_missing()

    def estimate(self, inputs: Inputs, video: Float[Tensor, "N 3 H W"], subject: Subject) -> Estimate:
        if subject == "joint":
            return self._together(inputs, video).arrays()
        moving = moving_in_target(inputs)
        return self._recovered(video, inputs.camera[1], True, moving).arrays()

    def _together(self, inputs: Inputs, video: Float[Tensor, "N 3 H W"]) -> EstimatedCameras:
        """Cameras of the reference's T frames, then of the T generated ones, in one world."""
        frames = len(inputs.reference)
        order = torch.arange(2 * frames).reshape(2, frames).T.flatten()  # 0, T, 1, T + 1, ...
        camera = replace(inputs.camera, c2w=inputs.camera.c2w.flatten(0, 1), K=inputs.camera.K.flatten(0, 1))
        known = inputs.source_camera_known or not _is_one_lens(camera)
        moving = None
        if inputs.dynamic is not None:
            carried = moving_in_target(inputs)
            moving = torch.cat([inputs.dynamic, torch.zeros_like(inputs.dynamic) if carried is None else carried])
            moving = moving[order]
        found = self._recovered(video[order], camera[order], known, moving)
        back = order.argsort()
        return replace(found, camera=found.camera[back], found=found.found[back])

    def _recovered(
        self, video: Float[Tensor, "N 3 H W"], camera: Camera, known: bool, moving: Bool[Tensor, "N H W"] | None
    ) -> EstimatedCameras:
        ignore = None if moving is None else moving.numpy()
        lens = camera[:1] if _is_one_lens(camera) else camera
        return recover_with_colmap(to_bytes(video), lens, known, ignore, self.config)


def _is_one_lens(camera: Camera) -> bool:
    return bool((camera.K[:1] == camera.K).all())


def moving_in_target(inputs: Inputs) -> Bool[Tensor, "T H W"] | None:
    """About where things that move would be seen from the target cameras; None where the benchmark does not say.

    A video that does not follow its path loses other pixels than meant, which costs matches but bends nothing.
    """
    if inputs.dynamic is None or (inputs.depth is None and inputs.subject_distance is None):
        return None
    masks = []
    for t, moving in enumerate(inputs.dynamic):
        depth = torch.full(moving.shape, inputs.subject_distance) if inputs.depth is None else inputs.depth[t]
        carried, _ = splat(moving[None].float(), depth, inputs.camera[0, t], inputs.camera[1, t])
        masks.append(carried > _TOUCHED)
    reach = max(1, round(_WIDENED * inputs.camera.size[1]))
    return F.max_pool2d(torch.cat(masks).float(), 2 * reach + 1, 1, reach) > 0


@dataclass(frozen=True)
class DepthAnythingPoses(Estimator):
    """non_commercial: whether weights that may not be used commercially, or whose licence is not known, may run."""

    config: DepthAnythingConfig = DepthAnythingConfig()
    non_commercial: bool = False
    name = "depth_anything_3"

    @property
    def settings(self) -> dict:
        return self.config.record()

    @property
    def footnotes(self) -> tuple[str, ...]:
        head = "ray" if self.config.ray_pose else "camera"
        return (
            f"Poses: Depth Anything 3, {self.config.model}, {head} head, longest side {self.config.process_res} px, "
            "all frames at once; the paper does not say which variant it used.",
        )

    def missing(self) -> str | None:
        lacking = self.config.program.missing()
        return lacking or (None if self.non_commercial else consent_lacking(self.config.model))

    def estimate(self, inputs: Inputs, video: Float[Tensor, "N 3 H W"], subject: Subject) -> Estimate:
        return recover_with_depth_anything(to_bytes(video), self.config).arrays()


@dataclass(frozen=True)
class PlaneSweepDepth(Estimator):
    planes: int = 48
    name = "plane_sweep"
    gives = "depth"
    needs = ("source_camera",)
    footnotes = ("Estimated depth: plane sweep over the reference's own frames, scene taken as static.",)

    @property
    def settings(self) -> dict:
        return {"planes": self.planes}

    def estimate(self, inputs: Inputs, video: Float[Tensor, "N 3 H W"], subject: Subject) -> Estimate | Skipped:
        camera = inputs.camera[0 if subject == "reference" else 1]
        centre = camera.c2w[:, :3, 3]
        if float((centre - centre[0]).norm(dim=-1).max()) < 1e-6:
            return skipped("the reference camera does not move: no depth without parallax")
        return {"depth": plane_sweep_depth(video, camera, self.planes).numpy().astype(np.float32)}


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


_SHOWN = {"copy": 0, "blur": 0, "depth_warp": 1, "ground_truth": 1}  # baselines: the view whose cameras they show


@dataclass(frozen=True)
class TruePoses(Estimator):
    """row: whose video it is. Nobody knows the true cameras of a video that a model made."""

    row: str | None = None
    name = "true_poses"
    version = 2
    needs = ("source_camera",)
    footnotes = (
        "Poses: not estimated but known, of copies of the reference (its own), and of the truth and warps to it by "
        "true depth (the target path's); no other row has any.",
    )

    def of_row(self, row: str) -> "TruePoses":
        return replace(self, row=row)

    def estimate(self, inputs: Inputs, video: Float[Tensor, "N 3 H W"], subject: Subject) -> Estimate | Skipped:
        if self.row not in _SHOWN:
            return skipped("a generated video has no true cameras, only those of the target path: set poses.estimator")
        views = [0, _SHOWN[self.row]] if subject == "joint" else [_SHOWN[self.row]]
        c2w, K = (part[views].flatten(0, 1) for part in (inputs.camera.c2w, inputs.camera.K))
        found = torch.ones(len(c2w), dtype=torch.bool)
        return cameras_from_poses(c2w, K, inputs.camera.size, found, "true", inputs.camera.scale_known).arrays()
