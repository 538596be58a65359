"""Cameras of a video by Depth Anything 3, which runs in an environment of its own (it needs other versions than we).

Learned, so it also answers where nothing can be triangulated: a still camera, few frames, things that move.
"""

import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from jaxtyping import UInt8

from mvtrack.config.checked import config
from mvtrack.files.cache import weights_identity
from mvtrack.inference.camera_estimation.estimated_cameras import (
    CameraEstimationError,
    EstimatedCameras,
    cameras_from_poses,
)
from mvtrack.inference.external_program import ExternalProgram, write_frames

VERSION = 1  # raised when the same video gives other cameras
_CHOICES = ("ray_pose", "process_res", "reference_view")
_HOW = (
    "make an environment for it (python -m venv da3; da3/bin/pip install depth-anything-3) and name it: "
    "environments.depth_anything_3: da3/bin/python in --settings, or $MVTRACK_DA3_PYTHON"
)
_ROTATION_TOLERANCE = 1e-2  # of what a network that runs in half precision calls a rotation


@config
class DepthAnythingConfig:
    """python: the interpreter of an environment with depth-anything-3. model: a hub id, or a folder with its files.

    ray_pose: poses from the ray head (slower, called more accurate by its authors) instead of the camera head.
    process_res: longest side in pixels that the network sees. device: None takes a GPU where there is one.
    """

    python: Path | None = None
    model: str = "depth-anything/DA3-BASE"  # Apache-2.0; LARGE, GIANT and NESTED are not for commercial use
    ray_pose: bool = False
    process_res: int = 504
    reference_view: str = "middle"
    device: str | None = None
    timeout_s: float = 7200.0

    @property
    def program(self) -> ExternalProgram:
        return ExternalProgram(
            Path(__file__).parent / "workers/depth_anything_worker.py", "depth_anything_3", "Depth Anything 3",
            self.python, _HOW, self.timeout_s,
        )  # fmt: skip

    def record(self) -> dict:
        """What the cameras of a video depend on beside its pictures, as plain values; weights in a folder by what they
        hold, the package by its version and sources."""
        made_by = {"weights": weights_identity(self.model), "package": self.program.identity(), "version": VERSION}
        return {name: getattr(self, name) for name in _CHOICES} | made_by


def recover_with_depth_anything(frames: UInt8[np.ndarray, "T H W 3"], config: DepthAnythingConfig) -> EstimatedCameras:
    """Cameras and lenses of a video from its pictures, in the network's unit (metres where it says so).

    Raises ValueError when it is not installed, WorkerError when it fails, CameraEstimationError without result.
    """
    if lacking := config.program.missing():
        raise ValueError(f"cameras cannot be measured: missing {lacking}")
    size = tuple(frames.shape[1:3])
    with tempfile.TemporaryDirectory(prefix="mvtrack-da3-") as name:
        write_frames(Path(name), frames)
        job = {name: getattr(config, name) for name in ("model", "device", *_CHOICES)}
        got = config.program.run(Path(name), job=job)
    if got["w2c"].shape != (len(frames), 3, 4) or got["K"].shape != (len(frames), 3, 3):
        raise CameraEstimationError(
            f"Depth Anything 3 gave poses {got['w2c'].shape} and lenses {got['K'].shape} of {len(frames)} frames"
        )
    found = np.isfinite(got["w2c"]).all((1, 2)) & np.isfinite(got["K"]).all((1, 2))
    R, t = got["w2c"][:, :, :3], got["w2c"][:, :, 3]
    found &= np.abs(R @ R.transpose(0, 2, 1) - np.eye(3)).max((1, 2)) < _ROTATION_TOLERANCE
    if not found.any():
        raise CameraEstimationError("Depth Anything 3 gave no pose that is a number and a rotation")
    c2w = np.tile(np.eye(4), (len(frames), 1, 1))
    c2w[:, :3, :3] = _nearest_rotations(R.transpose(0, 2, 1), found)
    c2w[:, :3, 3] = -(c2w[:, :3, :3] @ t[..., None])[..., 0]
    seen_size = got["size"].astype(np.float64)
    K = got["K"] * (np.array([size[1], size[0], 1.0]) / np.array([*seen_size[::-1], 1.0]))[:, None]
    depth = float(got["median_depth"])
    scale_known, method = bool(got["is_metric"]), f"Depth Anything 3, {config.model}"
    cameras = cameras_from_poses(
        torch.from_numpy(c2w), torch.from_numpy(K), size, torch.from_numpy(found), method, scale_known
    )  # fmt: skip
    return replace(cameras, median_depth=depth if np.isfinite(depth) else None)


def _nearest_rotations(matrix: np.ndarray, found: np.ndarray) -> np.ndarray:
    """Rotations (T, 3, 3) nearest to what the network gave; the identity for frames that were not found."""
    u, _, vt = np.linalg.svd(np.where(found[:, None, None], matrix, np.eye(3)))
    u[:, :, 2] *= np.linalg.det(u @ vt)[:, None]
    return u @ vt
