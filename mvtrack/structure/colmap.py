"""Cameras of a video without any learned weights: SIFT, then incremental and global structure from motion (pycolmap).

Both mappers run and the cameras that explain the matches better are taken; a camera that turns on the spot is
recognised and measured as that. What cannot be measured is an error with its reason, never an invented path.
"""

import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, Float, UInt8
from torch import Tensor

from mvtrack.structure.job import WorkerError, has_module, run_worker, write_frames
from mvtrack.structure.matches import PairMatches, epipolar_misfit
from mvtrack.structure.recovered import NotRecoveredError, RecoveredCameras, recovered
from mvtrack.structure.turning import Turning, fit_turning, fit_turning_and_focal

VERSION = 1  # raised when the same video gives other cameras
_TURNS_ONLY_PX = 0.5  # misfit below which a turning camera needs no second opinion
_LEAST_MATCHES = 60  # in the whole video
_FOCAL_TURN_DEG = 5.0  # a smaller turn says nothing about the focal length
_FOV_DEG = (15.0, 130.0)  # horizontal fields of view that a refined focal length may have
_LEAST_FOUND = 3


@dataclass(frozen=True)
class ColmapConfig:
    """Settings of SIFT and matching. threads: 1 gives the same cameras every time. timeout_s: for each stage."""

    max_features: int = 2048
    peak_threshold: float = 0.002
    edge_threshold: float = 20.0
    max_error_px: float = 2.0
    matches_per_pair: int = 200
    threads: int = 1
    timeout_s: float = 1800.0


DEFAULT = ColmapConfig()


def colmap_missing() -> str | None:
    """What has to be installed, or None."""
    import sys

    return None if has_module(sys.executable, "pycolmap") else "pycolmap: pip install pycolmap"


def recover_with_colmap(
    frames: UInt8[np.ndarray, "T H W 3"],
    K: Float[Tensor, "*one_or_T 3 3"],
    K_known: bool = True,
    ignore: Bool[np.ndarray, "T H W"] | None = None,
    config: ColmapConfig = DEFAULT,
) -> RecoveredCameras:
    """Cameras of a video from its pictures.

    K: of these pictures in pixels, one or one a frame; where not `K_known`, a first guess whose focal length is
    refined. ignore: pixels of moving things. Raises NotRecoveredError with the reason when the pictures do not tell,
    ValueError for bad input.
    """
    num_frames, size = len(frames), tuple(frames.shape[1:3])
    K = K.double().reshape(-1, 3, 3)
    if num_frames < _LEAST_FOUND or len(K) not in (1, num_frames):
        raise ValueError(f"{num_frames} frames with {len(K)} matrices K: at least 3 frames and 1 or T matrices needed")
    if not K_known and len(K) != 1:
        raise ValueError("an unknown focal length must be one for all frames: give a single K")
    job = {key: value for key, value in asdict(config).items() if key not in ("matches_per_pair", "timeout_s")}
    job |= {"num_frames": num_frames, "K": K[:, [0, 1, 0, 1], [0, 1, 2, 2]].tolist(), "refine_focal": not K_known}
    every = K.expand(num_frames, 3, 3).clone()
    with tempfile.TemporaryDirectory(prefix="mvtrack-colmap-") as name:
        folder = Path(name)
        write_frames(folder, frames, ignore)
        found = run_worker(
            "colmap_worker.py", folder, "match", job=job, result="match.npz", timeout_s=config.timeout_s,
            threads=config.threads,
        )  # fmt: skip
        matches = PairMatches.of_arrays(found, config.matches_per_pair)
        if len(matches) < _LEAST_MATCHES:
            raise NotRecoveredError(
                f"only {len(matches)} points could be matched between the frames ({int(found['keypoints'].mean())} "
                "features a frame): the pictures are too smooth, too small or too different"
            )
        turning, turning_K = _turning(matches, every, K_known)
        if turning.misfit < _TURNS_ONLY_PX:
            return _as_recovered(turning, turning_K, size, K_known)
        candidates = [
            c for c in (_place(folder, stage, size, every, config) for stage in ("incremental", "global")) if c
        ]
    return _choose(candidates, matches, turning, turning_K, size, K_known)


def _turning(matches: PairMatches, K: Float[Tensor, "T 3 3"], K_known: bool) -> tuple[Turning, Tensor]:
    turning = fit_turning(matches, K)
    if K_known or turning.largest_deg < _FOCAL_TURN_DEG:
        return turning, K
    return fit_turning_and_focal(matches, K)


def _as_recovered(turning: Turning, K: Tensor, size: tuple[int, int], K_known: bool) -> RecoveredCameras:
    c2w = torch.eye(4, dtype=torch.float64).repeat(len(K), 1, 1)
    c2w[:, :3, :3] = turning.rotation
    notes = ["the camera turns without moving, as far as the pictures tell: its place is set to one point"]
    if not K_known and turning.largest_deg < _FOCAL_TURN_DEG:
        notes.append(f"it turns by {turning.largest_deg:.1f} degrees only: the field of view stays the assumed one")
    return recovered(c2w, K, size, turning.found, "colmap, rotation only", rotation_only=True, notes=tuple(notes))


def _place(
    folder: Path, stage: str, size: tuple[int, int], K: Float[Tensor, "T 3 3"], config: ColmapConfig
) -> RecoveredCameras | None:
    """What one mapper finds; None when it finds nothing, fails, or finds a lens that no camera has."""
    try:
        got = run_worker(
            "colmap_worker.py", folder, stage, result=f"{stage}.npz", timeout_s=config.timeout_s, threads=config.threads
        )
    except WorkerError:
        return None
    found = torch.from_numpy(got["found"])
    if int(found.sum()) < _LEAST_FOUND:
        return None
    lens, K = torch.from_numpy(got["lens"]), K.clone()
    for value, (row, column) in enumerate([(0, 0), (1, 1), (0, 2), (1, 2)]):
        K[found, row, column] = lens[found, value]
    fov = torch.rad2deg(2 * torch.atan(0.5 * size[1] / K[found, 0, 0]))
    if fov.min() < _FOV_DEG[0] or fov.max() > _FOV_DEG[1]:
        return None
    first = torch.from_numpy(got["c2w"])[int(found.long().argmax())]
    points = torch.from_numpy(got["points"][got["seen_first"]])
    depth = ((points - first[:3, 3]) @ first[:3, 2]).quantile(0.5).item() if len(points) else None
    if depth is not None and depth <= 0:
        return None
    return recovered(torch.from_numpy(got["c2w"]), K, size, found, f"colmap, {stage}", median_depth=depth)


def _choose(
    candidates: list[RecoveredCameras],
    matches: PairMatches,
    turning: Turning,
    turning_K: Tensor,
    size: tuple[int, int],
    K_known: bool,
) -> RecoveredCameras:
    """The model that explains the matches best. A turning camera places every point, moving ones only a line: where
    both fit equally well, the turning one says more."""
    misfits = [epipolar_misfit(matches, c.camera, c.found) for c in candidates]
    best = min(misfits, default=float("inf"))
    if turning.misfit <= best:
        if turning.misfit > 2 * _TURNS_ONLY_PX:
            raise NotRecoveredError(
                "structure from motion found no cameras, and the motion is no turn on the spot either (matches are "
                f"{turning.misfit:.1f} px off)"
            )
        return _as_recovered(turning, turning_K, size, K_known)
    return candidates[misfits.index(best)]
