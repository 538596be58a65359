"""The cameras of the user's own video where no file gives them: measured, in the path's unit, or why they are not.

Pictures do not tell how large a scene is. What was measured is scaled so that the middle depth of what the first frame
shows is the subject's distance: amounts in metres, degrees around the subject and subject distances then mean the same
as for a still source.
"""

from dataclasses import dataclass
from pathlib import Path

from jaxtyping import Float
from torch import Tensor

from mvtrack.config.video_reading import DEFAULT_READING, VideoReading
from mvtrack.geometry.camera import Camera, path_extent
from mvtrack.inference.camera_estimation.cached_estimate import cameras_of_video
from mvtrack.inference.camera_estimation.estimated_cameras import CameraEstimationError, EstimatedCameras
from mvtrack.inference.external_program import WorkerError

AUTO = "auto"


@dataclass(frozen=True)
class MeasuredSource:
    """camera: (T,) at the video's own size, None where it could not be measured. record: how, as plain values. notes:
    what the user must know. points: of the scene, in the path's unit, where some were placed."""

    camera: Camera | None
    record: dict
    notes: tuple[str, ...]
    points: Float[Tensor, "N 3"] | None = None


def measure_source(
    video: Path, fov_deg: float | None, assumed_fov_deg: float, subject_distance: float, masks: Path | None = None,
    reading: VideoReading = DEFAULT_READING,
) -> MeasuredSource:  # fmt: skip
    """As `measured_cameras`, but a video that does not tell, or on which the program that measures crashes or takes too
    long, is taken as still, `assumed_fov_deg` wide, with a note that says so and why.

    A program that is not installed is a ValueError all the same: what was asked for could be had.
    """
    try:
        return measured_cameras(video, fov_deg, subject_distance, masks, reading)
    except (CameraEstimationError, WorkerError) as error:
        if isinstance(error, WorkerError):
            error = f"the cameras of {video} cannot be measured: {error}"
        note = (
            f"{error}; it is taken as still, {assumed_fov_deg:g} degrees wide: if it moves, the result will drift, and "
            "a pose file in place of auto helps"
        )
        return MeasuredSource(None, {"failed": str(error), **_given(masks)}, (note,))


def measured_cameras(
    video: Path, fov_deg: float | None, subject_distance: float, masks: Path | None = None,
    reading: VideoReading = DEFAULT_READING,
) -> MeasuredSource:  # fmt: skip
    """A video's cameras, one a frame; see `cameras_of_video` for `fov_deg`, `masks` and what raises ValueError."""
    found = cameras_of_video(video, fov_deg, masks, reading=reading).scaled_to_depth(subject_distance)
    camera = found.filled()
    record = {
        "method": found.method, "measured_frames": int(found.found.sum()), "misfit_px": _rounded(found.misfit_px),
        "fov_deg": round(found.fov_deg, 2), "largest_turn_deg": round(found.largest_turn_deg, 2),
        "extent": round(float(path_extent(camera.c2w)), 4),
        "unit": "none" if found.rotation_only else f"median depth of the first frame is {subject_distance:g}",
        **_given(masks),
    }  # fmt: skip
    return MeasuredSource(camera, record, (_summary(video, found, record), *found.notes), found.points)


def _given(masks: Path | None) -> dict:
    return {} if masks is None else {"ignore_mask": str(masks)}


def _summary(video: Path, found: EstimatedCameras, record: dict) -> str:
    frames, measured = len(found.found), record["measured_frames"]
    between = "" if measured == frames else f", the other {frames - measured} interpolated"
    moves = "" if found.rotation_only else f" and moves by {record['extent']:g} of the path's unit"
    return (
        f"cameras of {video} measured ({found.method}) in {measured} of {frames} frames{between}: {found.fov_deg:.1f} "
        f"degrees wide, turns by up to {found.largest_turn_deg:.1f} degrees{moves}"
    )


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 3)
