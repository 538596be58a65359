"""Cameras of a video without any learned weights: SIFT, then incremental and global structure from motion (pycolmap).

Both mappers run and the cameras that explain the matches better are taken; a camera that turns on the spot is
recognised and measured as that. What cannot be measured is an error with its reason, never an invented path.
"""

import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from importlib import metadata
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, Float, UInt8
from torch import Tensor

from mvtrack.config.checked import config
from mvtrack.geometry.camera import Camera, relative_pose
from mvtrack.inference.camera_estimation.estimated_cameras import (
    CameraEstimationError,
    EstimatedCameras,
    cameras_from_poses,
)
from mvtrack.inference.camera_estimation.matches import PairMatches, match_errors, mean_misfit
from mvtrack.inference.camera_estimation.rotation_only import fit_turning, fit_turning_and_focal
from mvtrack.inference.external_program import ExternalProgram, WorkerError, write_frames
from mvtrack.metrics.camera_accuracy import rotation_angle

VERSION = 4  # raised when the same video gives other cameras
_TURNS_ONLY_PX = 0.5  # misfit below which a turning camera needs no second opinion
_FITS_PX = 1.0  # cameras that leave their matches farther off than this are wrong
_FULL_WIDTH = 320  # pixels; in narrower pictures a pixel is a larger angle, and both limits shrink with the width
_DOUBT_DEG = 0.5  # turns that two halves of the points disagree on by more are not determined by the pictures
_LEAST_MATCHES = 60  # in the whole video
_LEAST_POINTS = 20  # placed by a mapper
_FOCAL_TURN_DEG = 5.0  # a smaller turn says nothing about the focal length
_FOV_DEG = (15.0, 130.0)  # horizontal fields of view that a refined focal length may have
_LEAST_FOUND = 3
_PROGRAM = ExternalProgram(Path(__file__).parent / "workers/colmap_worker.py", "pycolmap", "pycolmap")


@config
class ColmapConfig:
    """Settings of SIFT and matching. threads: 1 gives the same cameras every time. timeout_s: for each stage."""

    max_features: int = 2048
    peak_threshold: float = 0.002
    edge_threshold: float = 20.0
    max_error_px: float = 2.0
    matches_per_pair: int = 200
    threads: int = 1
    timeout_s: float = 1800.0

    def record(self) -> dict:
        """All that the cameras of a video depend on beside its pictures, as plain values."""
        used = {name: value for name, value in asdict(self).items() if name not in ("threads", "timeout_s")}
        return used | {"version": VERSION, "pycolmap": colmap_version()}


DEFAULT = ColmapConfig()


def colmap_missing() -> str | None:
    """What has to be installed, or None."""
    return _PROGRAM.missing() and "pycolmap: pip install pycolmap"


def colmap_version() -> str | None:
    """pycolmap's version, None where there is none."""
    try:
        return metadata.version("pycolmap")
    except metadata.PackageNotFoundError:
        return None


def recover_with_colmap(
    frames: UInt8[np.ndarray, "T H W 3"], lens: Camera, lens_known: bool = True,
    ignore: Bool[np.ndarray, "T H W"] | None = None, config: ColmapConfig = DEFAULT,
    on_stage: Callable[[str], object] | None = None,
) -> EstimatedCameras:  # fmt: skip
    """Cameras of a video from its pictures.

    lens: K of one camera (1,) for all frames or of T, for pictures of this size; its poses do not matter. Where not
    `lens_known`, one first guess, whose focal length is measured as well as far as the motion tells it. ignore: pixels
    of moving things. on_stage: called with the name of each stage that begins. Raises CameraEstimationError with the
    reason when the pictures do not tell, ValueError for bad input, WorkerError when pycolmap itself fails.
    """
    _check(frames, lens, lens_known, ignore)
    if lacking := colmap_missing():
        raise ValueError(f"cameras cannot be measured: missing {lacking}")
    on_stage = on_stage or (lambda _: None)
    with tempfile.TemporaryDirectory(prefix="mvtrack-colmap-") as name:
        write_frames(Path(name), frames, ignore)
        mapping = _Mapping(Path(name), lens, len(frames), lens_known, config)
        on_stage("matching")
        matches = mapping.match()
        turned = _turned(matches, mapping.lenses, lens.size, lens_known)
        if turned.misfit_px < _TURNS_ONLY_PX * _strictness(turned) and _refused(turned) is None:
            return turned
        placed, reasons = [], []
        for stage in ("incremental", "global"):
            on_stage(f"{stage} mapping")
            try:
                placed.append(mapping.place(stage))
            except (CameraEstimationError, WorkerError) as error:
                reasons.append(error)
    return _choose(placed, reasons, matches, turned)


def _check(frames: np.ndarray, lens: Camera, lens_known: bool, ignore: np.ndarray | None) -> None:
    num_frames, (height, width) = len(frames), frames.shape[1:3]
    if num_frames < _LEAST_FOUND:
        raise CameraEstimationError(f"{num_frames} frames: structure from motion needs at least {_LEAST_FOUND}")
    if lens.size != (height, width):
        raise ValueError(
            f"K is for pictures of {lens.size[1]}x{lens.size[0]}, the frames are {width}x{height}: resize one of them"
        )
    if lens.shape not in ((1,), (num_frames,)):
        raise ValueError(f"{num_frames} frames need K of 1 or {num_frames} cameras, got {tuple(lens.shape)}")
    if not lens_known and lens.shape != (1,):
        raise ValueError("an unknown focal length must be one for all frames: give a single K")
    if ignore is not None and ignore.shape != (num_frames, height, width):
        raise ValueError(
            f"masks of what moves must be {num_frames} of {width}x{height} like the frames, got {len(ignore)} of "
            f"{ignore.shape[2]}x{ignore.shape[1]}"
        )


@dataclass(frozen=True)
class _Mapping:
    """The stages on one folder of frames."""

    folder: Path
    lens: Camera
    num_frames: int
    lens_known: bool
    config: ColmapConfig

    @property
    def lenses(self) -> Float[Tensor, "T 3 3"]:
        """K of every frame, as given."""
        return self.lens.K.double().expand(self.num_frames, 3, 3).clone()

    def match(self) -> PairMatches:
        """SIFT and verified matches. Raises CameraEstimationError when there are too few."""
        found = self._run("match", refine=not self.lens_known)
        matches = PairMatches.of_arrays(found, self.config.matches_per_pair)
        if len(matches) < _LEAST_MATCHES:
            raise CameraEstimationError(
                f"only {len(matches)} points could be matched between the frames ({int(found['keypoints'].mean())} "
                "features a frame): the pictures are too smooth, too small or too different"
            )
        return matches

    def place(self, stage: str) -> EstimatedCameras:
        """What one mapper finds. A focal length that the motion does not tell, or that no camera has, stays as given.

        Raises CameraEstimationError when the mapper finds nothing.
        """
        if self.lens_known:
            return self._placed(stage, refine=False)
        try:
            free = self._placed(stage, refine=True)
            turn, fov = free.largest_turn_deg, free.fov_deg
            if turn >= _FOCAL_TURN_DEG and _FOV_DEG[0] <= fov <= _FOV_DEG[1]:
                return free
            why = f"the camera turns by {turn:.1f} degrees only"
            why = why if turn < _FOCAL_TURN_DEG else f"{fov:.0f} degrees came out"
        except CameraEstimationError as error:
            why = str(error)
        kept = self._placed(stage, refine=False)
        return replace(kept, notes=(*kept.notes, f"the field of view stays the assumed one: {why}"))

    def _placed(self, stage: str, refine: bool) -> EstimatedCameras:
        got = self._run(stage, refine)
        found = torch.from_numpy(got["found"])
        if int(found.sum()) < _LEAST_FOUND:
            raise CameraEstimationError(f"the {stage} mapper found {int(found.sum())} cameras")
        lens, K = torch.from_numpy(got["lens"]), self.lenses
        for value, (row, column) in enumerate([(0, 0), (1, 1), (0, 2), (1, 2)]):
            K[found, row, column] = lens[found, value]
        c2w, points = torch.from_numpy(got["c2w"]), torch.from_numpy(got["points"][got["seen_first"]])
        first = c2w[int(found.long().argmax())]
        depth = float(((points - first[:3, 3]) @ first[:3, 2]).quantile(0.5)) if len(points) else 0.0
        if depth <= 0:
            raise CameraEstimationError(f"the {stage} mapper put the scene behind the first camera")
        if len(got["points"]) < _LEAST_POINTS:
            raise CameraEstimationError(f"the {stage} mapper placed {len(got['points'])} points only")
        cameras = cameras_from_poses(c2w, K, self.lens.size, found, f"colmap, {stage}")
        doubt = _disagreement(*torch.from_numpy(got["halves"])[:, found])
        seen = (torch.from_numpy(got["points"]) - first[:3, 3]) @ first[:3, :3]
        return replace(cameras, median_depth=depth, doubt_deg=doubt, points=seen)

    def _run(self, stage: str, refine: bool) -> dict[str, np.ndarray]:
        names = ("max_features", "peak_threshold", "edge_threshold", "max_error_px", "threads")
        job = {name: getattr(self.config, name) for name in names}
        K = self.lens.K.double()[:, [0, 1, 0, 1], [0, 1, 2, 2]].tolist()
        job |= {"num_frames": self.num_frames, "K": K, "refine_focal": refine}
        program = replace(_PROGRAM, timeout_s=self.config.timeout_s, threads=self.config.threads)
        return program.run(self.folder, stage, job=job, result=f"{stage}.npz")


def _disagreement(one: Float[Tensor, "F 4 4"], other: Float[Tensor, "F 4 4"]) -> float:
    """Mean difference in degrees between the turns since the first frame."""
    one, other = (relative_pose(c2w[0], c2w)[:, :3, :3] for c2w in (one, other))
    return float(torch.rad2deg(rotation_angle(one, other)).nan_to_num(180.0).mean())


def _turned(
    matches: PairMatches, K: Float[Tensor, "T 3 3"], size: tuple[int, int], lens_known: bool
) -> EstimatedCameras:
    """The cameras of a video that turns on the spot, however well or badly that fits."""
    turning = fit_turning(matches, K)
    notes = ["the camera turns without moving, as far as the pictures tell: its place is set to one point"]
    if not lens_known and turning.largest_deg >= _FOCAL_TURN_DEG:
        turning, K = fit_turning_and_focal(matches, K)
    elif not lens_known:
        notes.append(
            f"the field of view stays the assumed one: the camera turns by {turning.largest_deg:.1f} degrees only"
        )
    halves = [_poses(fit_turning(half, K).rotation)[turning.found] for half in matches.halves()]
    turned = cameras_from_poses(_poses(turning.rotation), K, size, turning.found, "colmap, rotation only")
    return replace(
        turned, rotation_only=True, misfit_px=turning.misfit, doubt_deg=_disagreement(*halves), notes=tuple(notes)
    )


def _poses(rotation: Float[Tensor, "T 3 3"]) -> Float[Tensor, "T 4 4"]:
    c2w = torch.eye(4, dtype=torch.float64).repeat(len(rotation), 1, 1)
    c2w[:, :3, :3] = rotation
    return c2w


def _choose(
    placed: list[EstimatedCameras], reasons: list[ValueError], matches: PairMatches, turned: EstimatedCameras
) -> EstimatedCameras:
    """The cameras that explain all matches best, if they explain their own well; the reasons of all if there are none.

    A turning camera places every point, a moving one only a line: where both fit equally well, turning says more.
    """
    judged = [(turned.misfit_px, turned)]  # the first of equals is taken
    for cameras in placed:
        errors = match_errors(matches, cameras.camera, cameras.found)
        judged.append((mean_misfit(errors), replace(cameras, misfit_px=mean_misfit(errors[~errors.isnan()]))))
    good = []
    for misfit, cameras in judged:
        if why := _refused(cameras):
            reasons.append(CameraEstimationError(f"{cameras.method}: {why}"))
        else:
            good.append((misfit, cameras))
    if good:
        return min(good, key=lambda entry: entry[0])[1]
    crashed = any(isinstance(reason, WorkerError) for reason in reasons)
    raise (WorkerError if crashed else CameraEstimationError)("; ".join(map(str, reasons)))


def _refused(cameras: EstimatedCameras) -> str | None:
    """Why cameras are not to be believed."""
    if cameras.misfit_px > _FITS_PX * _strictness(cameras):
        return f"leaves its own matches {cameras.misfit_px:.1f} px off in pictures {cameras.camera.size[1]} px wide"
    if cameras.doubt_deg > _DOUBT_DEG:
        return f"halves of the points disagree by {cameras.doubt_deg:.1f} degrees"
    return None


def _strictness(cameras: EstimatedCameras) -> float:
    """What limits in pixels are multiplied with."""
    return min(1.0, cameras.camera.size[1] / _FULL_WIDTH)
