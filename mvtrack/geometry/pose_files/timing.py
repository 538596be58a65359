"""Which pose belongs to which frame of a video, and when a path's poses are passed: by the times and names of a file.

A file with one camera a frame is taken as it is. Otherwise its times, or else the numbers in its names, tell the
frames; cameras of frames in between are interpolated, up to gaps of `MAX_GAP_S`.
"""

import re
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from mvtrack.config.pose_files import LENSES, option_name
from mvtrack.geometry.camera import Camera
from mvtrack.geometry.keyframe_path import interpolate_poses
from mvtrack.geometry.pose_files.distortion import largest_displacement_px
from mvtrack.geometry.pose_files.files import read_with_format
from mvtrack.geometry.pose_files.parse import shown_path
from mvtrack.geometry.pose_files.registry import detect, find_format
from mvtrack.geometry.pose_files.sequence import CameraSequence
from mvtrack.geometry.pose_files.source import PoseSource

MAX_GAP_S = 1.0
_MAX_GAP_FRAMES = 30  # where the video's rate is not known
_ASPECT = 0.01
_SAME_LENGTH = 1.5  # frames by which a path and a video may differ
NEGLIGIBLE_PX = 0.5  # of lens distortion
_ANY_SIZE, _ANY_FOV = (480, 832), 50.0  # of a path, which is used by its poses and by how its lens changes


@dataclass(frozen=True)
class FrameGrid:
    """The frames of a video that cameras are for: how many, their size (H, W), and their rate where it is known.

    frame_of: the file's own frame that each of them shows, where its frames come at uneven times; own_frames: how many
    it has. stored_size: before its pixels were made square; a file for that is for this video too: focal lengths
    follow.
    """

    num_frames: int
    size: tuple[int, int]
    fps: float | None = None
    frame_of: tuple[int, ...] | None = None
    own_frames: int | None = None
    stored_size: tuple[int, int] | None = None

    @staticmethod
    def of(video) -> "FrameGrid":
        """Of an opened video (mvtrack/video/video.py)."""
        shown = tuple(video.frame_of.tolist())
        return FrameGrid(len(video), video.size, video.fps, shown, video.own_frames, video.stored_size)


def read_video_cameras(path: Path, grid: FrameGrid, **options) -> tuple[Camera, tuple[str, ...]]:
    """A video's cameras (T,) at its size, float64, with notes of what was done; options as `read_cameras`.

    The size is the video's where a format has none. Raises ValueError for another aspect, for a distorted lens that
    moves pixels by over half a pixel, and where the file does not tell which camera each frame has.
    """
    size = grid.size
    sequence = read_with_defaults(path, {"size": size}, **options)
    own, shown = sequence.camera.size, shown_path(path)
    sizes = [size] if grid.stored_size is None else [size, grid.stored_size]
    if all(abs(own[1] / own[0] / (width / height) - 1) > _ASPECT for height, width in sizes):
        raise ValueError(
            f"{shown} is for pictures of {own[1]}x{own[0]}, the video is {size[1]}x{size[0]}: the aspects differ"
        )
    matched, notes = cameras_of_frames(sequence, shown, grid)
    camera = matched.camera.resized(size).to(dtype=torch.float64)
    if matched.distortion is not None:
        moved = largest_displacement_px(camera.K, size, matched.distortion)
        text = f"{shown} has a distorted lens, which moves pixels by up to {moved:.1f} px at {size[1]}x{size[0]}"
        if moved > NEGLIGIBLE_PX:
            raise ValueError(
                f"{text}: undistort the video first, or take the lens as a pinhole with the option "
                f"{option_name('drop_distortion')}"
            )
        notes = (*notes, f"{text}: it is taken as a pinhole")
    return camera, (*sequence.notes, *notes)


def read_path(path: Path, **options) -> CameraSequence:
    """A camera path from a pose file; its size and lens are not asked for, where a format has none."""
    return read_with_defaults(path, {"size": _ANY_SIZE, "fov": _ANY_FOV}, **options)


def read_with_defaults(path: Path, defaults: dict, format: str | None = None, **options) -> CameraSequence:
    """As `read_cameras`, with a size, or a size and a field of view, for formats that have none."""
    known = find_format(format) if format is not None else detect(PoseSource(path))
    if "size" in defaults and "size" in known.options and "size" not in known.holds:
        options.setdefault("size", defaults["size"])
    lens_is_missing = "fov" in known.options and "intrinsics" not in known.holds
    if "fov" in defaults and lens_is_missing and not any(name in options for name in LENSES):
        options["fov"] = defaults["fov"]
    return read_with_format(path, known.name, **options)[0]


def cameras_of_frames(sequence: CameraSequence, shown: str, grid: FrameGrid) -> tuple[CameraSequence, tuple[str, ...]]:
    """The sequence with one camera for each frame of a video, and a note where cameras had to be interpolated.

    shown: the file, for errors. Raises ValueError where times and names do not tell the frames, or leave large gaps.
    """
    count, num_frames, fps = sequence.num_frames, grid.num_frames, grid.fps
    if count == grid.own_frames and grid.frame_of != tuple(range(num_frames)):
        note = f"{shown} holds a camera for each of the video's {count} frames that come at uneven times"
        return sequence.frames(list(grid.frame_of)), (note,)
    if count == num_frames:
        return sequence, ()
    keys, how = _frames_by_time(sequence, num_frames, fps), "times"
    if keys is None:
        keys, how = _frames_by_name(sequence.names, num_frames), "names"
    if keys is None:
        raise ValueError(
            f"{shown} holds {count} cameras, but the video has {num_frames} frames, and neither times nor names tell "
            "which camera belongs to which frame: one camera a frame is needed"
        )
    most = _MAX_GAP_FRAMES if fps is None else max(1, round(MAX_GAP_S * fps))
    edges = torch.cat([keys.new_tensor([-1.0]), keys, keys.new_tensor([float(num_frames)])])
    gap = int(edges.diff().argmax())
    if edges.diff()[gap] - 1 > most:
        first, last = int(edges[gap].floor()) + 1, int(edges[gap + 1].ceil()) - 1
        raise ValueError(
            f"{shown} holds {count} cameras for {num_frames} frames, by their {how} none for frames {first} to {last}: "
            f"gaps of up to {most} frames are interpolated"
        )
    frames = torch.arange(num_frames, dtype=torch.float64)
    within = frames.clamp(keys[0], keys[-1])
    missing = num_frames - int(torch.isin(frames, keys).sum())
    interpolated = replace(
        sequence,
        camera=replace(
            sequence.camera, c2w=interpolate_poses(sequence.camera.c2w, keys, within),
            K=_linear(sequence.camera.K, keys, within),
        ),
        names=tuple(str(i) for i in range(num_frames)),
        timestamps_s=None if fps is None else frames / fps,
        distortion=None if sequence.distortion is None else sequence.distortion.at(keys, within),
    )  # fmt: skip
    note = f"{shown} holds {count} cameras for {num_frames} frames: {missing} are interpolated, by its {how}"
    return interpolated, (note,)


def _linear(
    values: Float[Tensor, "K *any"], keys: Float[Tensor, "K"], times: Float[Tensor, "T"]
) -> Float[Tensor, "T *any"]:
    if len(keys) == 1:
        return values.expand(len(times), *values.shape[1:])
    i = (torch.bucketize(times, keys, right=True) - 1).clamp(0, len(keys) - 2)
    share = ((times - keys[i]) / (keys[i + 1] - keys[i])).view(-1, *[1] * (values.ndim - 1))
    return torch.lerp(values[i], values[i + 1], share)


def _frames_by_time(sequence: CameraSequence, num_frames: int, fps: float | None) -> Float[Tensor, "K"] | None:
    """Frame of every camera, fractional; None without times that are of this video.

    Times count from the video's start if they lie within it; other clocks are taken to start with the video if they run
    as long as it does, to a frame.
    """
    times = sequence.timestamps_s
    if times is None or fps is None or not (times.diff() > 0).all():
        return None
    keys, last = times.double() * fps, num_frames - 1
    if keys[0] >= -0.5 and keys[-1] <= last + 0.5:
        return keys
    keys = keys - keys[0]
    return keys if abs(float(keys[-1]) - last) <= 1 else None


def numbers_of_names(names: tuple[str, ...]) -> list[int] | None:
    """The last number in each name, where these ascend and nothing else differs between the names."""
    matches = [re.fullmatch(r"(.*?)([0-9]{1,15})([^0-9]*)", name, re.DOTALL) for name in names]
    if not all(matches) or len({(match[1], match[3]) for match in matches}) > 1:
        return None
    numbers = [int(match[2]) for match in matches]
    return numbers if all(a < b for a, b in zip(numbers, numbers[1:], strict=False)) else None


def _frames_by_name(names: tuple[str, ...], num_frames: int) -> Float[Tensor, "K"] | None:
    """Frame of every camera by the numbers in their names, which count from 0 or 1; None where that is unclear."""
    numbers = numbers_of_names(names)
    if numbers is None or numbers[-1] - numbers[0] == len(numbers) - 1 or numbers[-1] > num_frames:
        return None
    if numbers[0] > 1 and numbers[-1] < num_frames:
        return None
    base = 1 if numbers[-1] == num_frames or numbers[0] == 1 else 0
    return None if numbers[0] < base else torch.tensor(numbers, dtype=torch.float64) - base


def _duration_frames(sequence: CameraSequence, grid: FrameGrid) -> float | None:
    """How many of a video's frames the times of a path last, from its first pose to its last; None without times."""
    times = sequence.timestamps_s
    known = times is not None and grid.fps is not None and grid.num_frames > 1 and len(times) > 1
    return float(times[-1] - times[0]) * grid.fps if known else None


def stretch_note(sequence: CameraSequence, grid: FrameGrid) -> str | None:
    """That a path is shown faster or slower than its times say; None where it is not, or has a pose for each frame."""
    frames, last = _duration_frames(sequence, grid), grid.num_frames - 1
    if frames is None or sequence.num_frames == grid.num_frames or abs(frames - last) <= _SAME_LENGTH:
        return None
    return f"its {frames / grid.fps:.3g} s are stretched over the video's {last / grid.fps:.3g} s"


def key_times(sequence: CameraSequence, path: Path, grid: FrameGrid) -> Float[Tensor, "K"] | None:
    """When the poses of a path are passed, from 0 to 1 of a video, by its times or else by the numbers in its names:
    as they are where the times last as long as the video, and else stretched over it.

    None where the file has neither, or where they are even. Raises ValueError for times that do not ascend.
    """
    times = sequence.timestamps_s
    if times is None:
        numbers = numbers_of_names(sequence.names)
        times = None if numbers is None else torch.tensor(numbers, dtype=torch.float64)
    if times is None or len(times) < 3:
        return None
    back = (times.diff() <= 0).nonzero()
    if len(back):
        frame = int(back[0]) + 1
        raise ValueError(
            f"{shown_path(path)}: its times do not ascend: pose {frame} is at {times[frame]:.9g} s, after a later one"
        )
    keys = (times.double() - times[0]) / (times[-1] - times[0])
    even = torch.linspace(0, 1, len(keys), dtype=torch.float64)
    if (keys - even).abs().max() < 0.1 / (len(keys) - 1):
        return None
    frames, last = _duration_frames(sequence, grid), grid.num_frames - 1
    return keys if frames is None or abs(frames - last) > _SAME_LENGTH else keys * frames / last


def unit_note(sequence: CameraSequence, subject_distance: float) -> str | None:
    """What a length of 1 is taken to be, where the file does not say; None where it does, or where nothing moves.

    With points of the scene, a subject's distance that fits them is proposed: the middle depth before the first camera.
    """
    camera = sequence.camera
    if camera.scale_known or not (camera.c2w[:, :3, 3] != camera.c2w[0, :3, 3]).any():
        return None
    share = {1: "the subject's distance", 2: "half the subject's distance", 4: "a quarter of the subject's distance"}
    taken = share.get(subject_distance, f"1/{subject_distance:g} of the subject's distance")
    text = f"unit unknown: 1 is taken as {taken}"
    if sequence.points is not None and len(sequence.points):
        depth = (sequence.points.double() - camera.c2w[0, :3, 3]) @ camera.c2w[0, :3, 2]
        if (depth > 0).any():
            text += f" (its points lie {depth[depth > 0].median():.3g} before the first camera: --subject-distance)"
    return text
