"""The options that say what a shot is, for every command that takes one, and how they become a `Shot`."""

import argparse
import re
from dataclasses import replace
from pathlib import Path

import torch

from mvtrack.camera import Camera, relative_pose
from mvtrack.fitting import FIT_MODES, still_camera
from mvtrack.generate import SampleConfig
from mvtrack.path_language import ComposedPath, Move, Segment, parse_path
from mvtrack.path_shape import PosePath
from mvtrack.poses.arguments import add_read_arguments, read_arguments
from mvtrack.trajectory import PIVOT_M, PRESETS, SPEEDS, CameraMotion


def add_shot_arguments(parser: argparse.ArgumentParser) -> None:
    """--camera and everything that says what it means."""
    group = parser.add_argument_group("the shot")
    group.add_argument(
        "--camera", metavar="PATH", required=True,
        help=f"a preset ({', '.join(PRESETS)}), a path such as 'arc_left 30deg; dolly_in 0.5 ease', or a pose file",
    )  # fmt: skip
    group.add_argument("--amount", type=float, help="of a single move: degrees, metres, or a lens factor")
    group.add_argument("--speed", default=None, help=f"of a single move: {', '.join(SPEEDS)}")
    group.add_argument(
        "--subject-distance", type=float, default=PIVOT_M, metavar="M",
        help="distance of the subject in metres, or in the pose file's unit (default 4)",
    )  # fmt: skip
    group.add_argument("--fov", type=float, default=50.0, help="horizontal field of view of a still source, degrees")
    group.add_argument("--source-cameras", type=Path, metavar="FILE", help="the source's own cameras, a pose file")
    group.add_argument(
        "--poses-relative-to", choices=("first-pose", "source", "world"), default="first-pose",
        help="what the poses of a file given as --camera count from: its own first pose, which is laid on the source's "
        "first frame; that frame itself; or a world shared with --source-cameras",
    )  # fmt: skip
    add_read_arguments(parser.add_argument_group("what pose files do not say"), "pose-")
    group.add_argument("--fit", choices=FIT_MODES, default="crop", help="how the picture meets the model's sizes")
    group.add_argument("--size", metavar="HxW", help="size of the result instead of the model's own")


def read_shot(options: argparse.Namespace, video: Path, sample: SampleConfig):
    """Build a `Shot` from parsed options. Raises ValueError that names the option."""
    from mvtrack.reshooting import Shot

    source = _source_cameras(options, video)
    return Shot(camera_path(options, source), options.fov, source, options.fit, _size(options.size), sample)


def _size(text: str | None) -> tuple[int, int] | None:
    if text is None:
        return None
    match = re.fullmatch(r"(\d{1,5})x(\d{1,5})", text)
    if not match or "0" in match.groups():
        raise ValueError(f"--size must look like 480x832 (height x width), got {text!r}")
    return int(match[1]), int(match[2])


def camera_path(options: argparse.Namespace, source: Camera | None) -> CameraMotion:
    """The path that --camera names: a pose file if there is one of that name, else the path language."""
    file = Path(options.camera)
    if file.exists() and options.camera not in PRESETS:
        if options.amount is not None or options.speed is not None:
            raise ValueError("--amount and --speed are for a single move, not for a pose file")
        return _path_from_file(options, file, source)
    if "/" in options.camera or file.suffix in {".json", ".txt", ".npz", ".bin"}:
        raise ValueError(f"pose file {file} does not exist")
    path = parse_path(options.camera, options.subject_distance)
    return _with_amount(path, options)


def _with_amount(path: ComposedPath, options: argparse.Namespace) -> ComposedPath:
    if options.amount is None and options.speed is None:
        return path
    if len(path.segments) > 1 or len(path.segments[0].moves) > 1:
        raise ValueError("--amount and --speed are for a single move: write them into the path instead")
    move = path.segments[0].moves[0]
    if options.speed is not None and options.speed not in SPEEDS:
        raise ValueError(f"unknown speed {options.speed!r}; known: {', '.join(SPEEDS)}")
    changed = Move(
        move.name,
        move.amount if options.amount is None else options.amount,
        move.unit if options.amount is None else None,
        options.speed or move.speed,
        move.look_at,
    )
    return replace(path, segments=(Segment((changed,), 1.0),))


def _path_from_file(options: argparse.Namespace, file: Path, source: Camera | None) -> PosePath:
    """Poses of a file relative to the source's first frame, with focal lengths over that frame's (or the first's)."""
    from mvtrack.poses import read_cameras

    camera = read_cameras(file, **read_arguments(options, "pose-")).camera
    focal = camera.K[:, 0, 0].double() / camera.size[1]
    origin, first_focal = camera.c2w[0].double(), focal[0]
    if options.poses_relative_to == "world" and source is None:
        raise ValueError("--poses-relative-to world needs --source-cameras: where in that world the source stands")
    if options.poses_relative_to != "first-pose":
        still = source or still_camera(options.fov, camera.size, 1)
        origin, first_focal = still.c2w[0].double(), still.K[0, 0, 0].double() / still.size[1]
    if options.poses_relative_to == "source":
        origin = torch.eye(4, dtype=torch.float64)
    poses = relative_pose(origin, camera.c2w.double())
    return PosePath(poses, focal / first_focal, options.subject_distance, file.stem)


def _source_cameras(options: argparse.Namespace, video: Path) -> Camera | None:
    """The source's cameras for every frame, at the video's own size."""
    if options.source_cameras is None:
        return None
    from mvtrack.data.footage import open_footage
    from mvtrack.poses import read_cameras

    camera, footage = (
        read_cameras(options.source_cameras, **read_arguments(options, "pose-")).camera,
        open_footage(video),
    )
    if camera.shape[0] != footage.num_frames:
        raise ValueError(
            f"{options.source_cameras} holds {camera.shape[0]} cameras, {video} has {footage.num_frames} frames: "
            f"one camera a frame is needed"
        )
    aspect = camera.size[1] / camera.size[0] / (footage.size[1] / footage.size[0])
    if abs(aspect - 1) > 0.01:
        raise ValueError(
            f"{options.source_cameras} is for pictures of {camera.size[1]}x{camera.size[0]}, {video} is "
            f"{footage.size[1]}x{footage.size[0]}: the aspects differ"
        )
    return camera.resized(footage.size).to(dtype=torch.float64)
