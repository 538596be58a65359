"""What is odd about cameras that could be read: each thing that was looked at, as a finding in plain words."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from mvtrack.geometry.camera import path_extent, relative_pose
from mvtrack.geometry.pose_files.distortion import largest_displacement_px
from mvtrack.geometry.pose_files.reprojection_check import (
    MAX_WIDTH,
    ReprojectionFit,
    convention_fits,
    follow_points,
    frame_pairs,
    motion_px,
)
from mvtrack.geometry.pose_files.sequence import CameraSequence
from mvtrack.geometry.pose_files.timing import NEGLIGIBLE_PX, FrameGrid, cameras_of_frames

OK, WARN, FAIL = "ok", "warn", "fail"

_FOV_DEG = (10.0, 150.0)
_EXTENT_M = (1e-3, 200.0)  # of a path in metres: beyond, the unit is rather millimetres or centimetres
_SPEED_M_S = 60.0
_JUMP = 10.0  # times the middle step
_JUMP_DEG = 2.0  # turns below are no jump, however still the rest is
_ASPECT = 0.01
_MEET_DEG = 15.0  # axes must differ by this much for the point where they meet to mean something
_MEET_SPREAD = 0.15  # of the distance: how far the axes may miss that point
_STILL_PX, _CLEARLY_BETTER, _WRONG_PX = 1.0, 0.6, 1.0
_FITS_PX, _FITS_SHARE = 0.5, 0.25  # of what points move: cameras that explain less of it do not fit


@dataclass(frozen=True)
class Finding:
    """level: ok, warn (may be meant so) or fail (cannot be right). topic: what was looked at."""

    level: str
    topic: str
    text: str


def diagnose(sequence: CameraSequence, size: tuple[int, int] | None = None) -> list[Finding]:
    """Findings about the cameras alone, and about their video's size (H, W) where given."""
    findings = [_rotations(sequence), _lens(sequence), *(Finding(WARN, "reading", note) for note in sequence.notes)]
    if size is None:
        findings.insert(0, Finding(OK, "frames", f"{sequence.num_frames} cameras"))
    else:
        findings.append(_aspect(sequence, size))
    if sequence.distortion is not None:
        findings.append(_distortion(sequence, size or sequence.camera.size))
    if sequence.timestamps_s is not None:
        findings.append(_times(sequence.timestamps_s))
    return [*findings, _scale(sequence), _jumps(sequence), *_where_axes_meet(sequence)]


def match_frames(sequence: CameraSequence, shown: str, grid: FrameGrid) -> tuple[CameraSequence, Finding]:
    """The cameras of every frame of a video, and whether the file tells them; the sequence itself where it does not."""
    try:
        matched, notes = cameras_of_frames(sequence, shown, grid)
    except ValueError as error:
        return sequence, Finding(FAIL, "frames", str(error).removeprefix(f"{shown} holds "))
    text = f"{sequence.num_frames} cameras for {grid.num_frames} frames of video"
    return matched, Finding(WARN, "frames", notes[0]) if notes else Finding(OK, "frames", text)


def _distortion(sequence: CameraSequence, size: tuple[int, int]) -> Finding:
    moved = largest_displacement_px(sequence.camera.resized(size).K, size, sequence.distortion)
    text = f"the lens moves pixels by up to {moved:.1f} px at {size[1]}x{size[0]}"
    return Finding(WARN if moved > NEGLIGIBLE_PX else OK, "distortion", text)


def _rotations(sequence: CameraSequence) -> Finding:
    rotation = sequence.camera.c2w[:, :3, :3]
    error = (rotation.mT @ rotation - torch.eye(3, dtype=rotation.dtype)).abs().max().item()
    return Finding(OK, "rotations", f"all valid, within {error:.1g} of orthonormal, determinant +1")


def _lens(sequence: CameraSequence) -> Finding:
    K, (height, width) = sequence.camera.K, sequence.camera.size
    fov = torch.rad2deg(2 * torch.atan(width / 2 / K[:, 0, 0]))
    low, high = fov.min().item(), fov.max().item()
    shown = f"{low:.1f}" if high - low < 0.05 else f"{low:.1f} to {high:.1f}"
    aspect = (K[:, 1, 1] / K[:, 0, 0]).sub(1).abs().max().item()
    outside = (K[:, :2, 2] < 0) | (K[:, :2, 2] > K.new_tensor([width, height]))
    if low < _FOV_DEG[0] or high > _FOV_DEG[1]:
        return Finding(WARN, "lens", f"horizontal field of view {shown} degrees: are K and size for the same picture?")
    if outside.any():
        return Finding(WARN, "lens", "the principal point is outside of the picture: are K and size for the same one?")
    if aspect > 0.05:
        return Finding(WARN, "lens", f"fx and fy differ by {aspect:.0%}: was the picture stretched?")
    return Finding(OK, "lens", f"horizontal field of view {shown} degrees at {width}x{height}")


def _aspect(sequence: CameraSequence, size: tuple[int, int]) -> Finding:
    height, width = sequence.camera.size
    shown = f"cameras for {width}x{height}, video of {size[1]}x{size[0]}"
    if abs(width / height / (size[1] / size[0]) - 1) > _ASPECT:
        turned = abs(height / width / (size[1] / size[0]) - 1) < _ASPECT
        return Finding(FAIL, "size", f"{shown}: {'height and width are swapped' if turned else 'the aspects differ'}")
    return Finding(OK, "size", shown)


def _times(times_s: Float[Tensor, "T"]) -> Finding:
    back = (times_s.diff() <= 0).nonzero()
    if len(back):
        frame = int(back[0]) + 1
        return Finding(
            FAIL,
            "times",
            f"frame {frame} is at {times_s[frame]:.6g} s, frame {frame - 1} at {times_s[frame - 1]:.6g} s",
        )
    span = (times_s[-1] - times_s[0]).item()
    rate = f", {(len(times_s) - 1) / span:.4g} frames a second on average" if span > 0 else ""
    return Finding(OK, "times", f"ascending, {span:.6g} s{rate}")


def _scale(sequence: CameraSequence) -> Finding:
    extent = path_extent(sequence.camera.c2w).item()
    if not sequence.camera.scale_known:
        return Finding(OK, "scale", f"unit unknown; the path reaches {extent:.4g} units from its start")
    if extent > _EXTENT_M[1]:
        return Finding(
            WARN, "scale", f"the path reaches {extent:.4g} m from its start: is the unit rather a smaller one?"
        )
    if 0 < extent < _EXTENT_M[0]:
        return Finding(WARN, "scale", f"the path reaches only {extent:.2g} m from its start: is the unit a larger one?")
    if sequence.timestamps_s is not None and sequence.num_frames > 1:
        steps = sequence.camera.c2w[:, :3, 3].diff(dim=0).norm(dim=-1)
        speed = (steps / sequence.timestamps_s.diff().abs().clamp_min(1e-9)).median().item()
        if speed > _SPEED_M_S:
            return Finding(WARN, "scale", f"the camera moves at {speed:.4g} m/s: are the unit and the times right?")
    return Finding(OK, "scale", f"metres; the path reaches {extent:.4g} m from its start")


def _jumps(sequence: CameraSequence) -> Finding:
    c2w = sequence.camera.c2w
    if len(c2w) < 4:
        return Finding(OK, "smoothness", "too few frames to say")
    step = relative_pose(c2w[:-1], c2w[1:])
    moved = step[:, :3, 3].norm(dim=-1)
    turned = torch.rad2deg(torch.acos(((step.diagonal(dim1=-2, dim2=-1).sum(-1) - 2) / 2).clamp(-1, 1)))
    worst_move, worst_turn = int(moved.argmax()), int(turned.argmax())
    limit = _JUMP * moved.median() if moved.median() > 0 else torch.inf
    if moved[worst_move] > limit:
        times = (moved[worst_move] / moved.median()).item()
        return Finding(
            WARN, "smoothness", f"between frames {worst_move} and {worst_move + 1} the camera moves {times:.0f} times "
            "further than usual: a cut, or frames in the wrong order?",
        )  # fmt: skip
    if turned[worst_turn] > max(_JUMP * turned.median().item(), _JUMP_DEG):
        return Finding(
            WARN, "smoothness", f"between frames {worst_turn} and {worst_turn + 1} the camera turns "
            f"{turned[worst_turn]:.1f} degrees: a cut, or frames in the wrong order?",
        )  # fmt: skip
    return Finding(
        OK, "smoothness", f"steps of at most {moved.max().item():.3g} units and {turned.max().item():.2g} degrees"
    )


def _where_axes_meet(sequence: CameraSequence) -> list[Finding]:
    """Cameras that circle something look at it. Where the axes meet behind them, z may point the wrong way."""
    centre, axis = sequence.camera.c2w[:, :3, 3], sequence.camera.c2w[:, :3, 2]
    spread = torch.rad2deg(torch.acos((axis @ axis[0]).clamp(-1, 1)).max())
    across = torch.eye(3, dtype=axis.dtype) - axis[:, :, None] * axis[:, None]
    if spread < _MEET_DEG or not path_extent(sequence.camera.c2w) > 0:
        return []
    point = torch.linalg.lstsq(across.sum(0), (across @ centre[..., None]).sum(0)).solution[:, 0]
    depth = ((point - centre) * axis).sum(-1)
    miss = (across @ (point - centre)[..., None]).norm(dim=(-1, -2)).median() / depth.abs().median()
    if not miss < _MEET_SPREAD:
        return []
    if (depth < 0).double().mean() > 0.9:
        other = "opencv" if sequence.file_axes == "opengl" else "opengl"
        return [Finding(
            WARN, "axes", f"the cameras look away from the point that they circle: {other} axes would make them look "
            "at it. It may be meant (a pan at arm's length): `--video` tells",
        )]  # fmt: skip
    return [Finding(OK, "axes", "the cameras look at the point that they circle")] if (depth > 0).all() else []


def compare_with_video(
    sequence: CameraSequence,
    size: tuple[int, int],
    read_frame: Callable[[int, tuple[int, int]], UInt8[np.ndarray, "H W 3"]],
) -> Finding:
    """Whether points followed in the video move as the cameras say. size: (H, W) of the video; read_frame: a frame of
    it at a size (H, W)."""
    factor = min(1.0, MAX_WIDTH / size[1])
    small = max(1, round(size[0] * factor)), max(1, round(size[1] * factor))
    matches = follow_points(lambda index: read_frame(index, small), frame_pairs(sequence.camera))
    fits = convention_fits(sequence, matches, small)
    if not fits:
        return Finding(WARN, "video", "too few points could be followed in the video to say anything about the axes")
    return judge_fits(fits, motion_px(matches))


def judge_fits(fits: list[ReprojectionFit], motion_px: float) -> Finding:
    """What points followed in the video say about the convention; the file's own is the first of `fits`."""
    own, best = fits[0], min(fits, key=lambda fit: fit.error_px)
    if motion_px < _STILL_PX:
        return Finding(
            WARN, "video", f"the picture moves by {motion_px:.2g} px only: nothing can be said about the axes"
        )
    shown = f"points followed in the video are {own.error_px:.2f} px off"
    if own.error_px > _WRONG_PX and best.error_px < _CLEARLY_BETTER * own.error_px:
        equal = [str(fit.convention) for fit in fits if fit.error_px <= best.error_px + 0.05]
        return Finding(
            FAIL, "video", f"{shown} as {own.convention}, {best.error_px:.2f} px as {' or '.join(equal)}: "
            f"read it as that (`mvtrack cameras convert … --read-as '{equal[0]}'`)",
        )  # fmt: skip
    if not own.error_px <= max(_FITS_PX, _FITS_SHARE * motion_px):
        return Finding(
            WARN, "video", f"{shown}, of {motion_px:.1f} px that they move, and no other convention fits better"
        )
    return Finding(OK, "video", f"{shown}, of {motion_px:.1f} px that they move: {own.convention} fits")
