"""The options that say what a shot is, for every command that takes one, and how they become a `Shot`."""

import argparse
import re
from dataclasses import replace
from pathlib import Path

import torch

from mvtrack.geometry.camera import Camera, relative_pose
from mvtrack.geometry.keyframe_path import PosePath
from mvtrack.geometry.path_language import ComposedPath, Move, Segment, parse_path
from mvtrack.geometry.pose_files.arguments import add_read_arguments, read_arguments
from mvtrack.geometry.trajectory import PIVOT_M, PRESETS, SPEEDS, CameraMotion
from mvtrack.inference.camera_estimation.source_cameras import AUTO, MeasuredSource, measure_source
from mvtrack.inference.sampler import SamplerOptions
from mvtrack.inference.tracking.generated_tracks import TrackPlan
from mvtrack.inference.tracking.points import HELP
from mvtrack.video.depth_file import is_depth_file
from mvtrack.video.resize import FIT_MODES, still_camera


def add_shot_arguments(parser: argparse.ArgumentParser, camera_required: bool = True) -> None:
    """--camera and everything that says what it means."""
    group = parser.add_argument_group("the shot")
    group.add_argument(
        "--camera", metavar="PATH", required=camera_required,
        help=f"a preset ({', '.join(PRESETS)}), a path such as 'arc_left 30deg; dolly_in 0.5 ease', or a pose file",
    )  # fmt: skip
    group.add_argument("--amount", type=float, help="of a single move: degrees, metres, or a lens factor")
    group.add_argument("--speed", default=None, help=f"of a single move: {', '.join(SPEEDS)}")
    group.add_argument(
        "--subject-distance", type=float, default=PIVOT_M, metavar="M",
        help="distance of the subject in metres, or in the pose file's unit (default 4)",
    )  # fmt: skip
    group.add_argument(
        "--fov", type=float, metavar="DEG",
        help="horizontal field of view of a source without cameras (default 50); with --source-cameras auto it is "
        "measured unless given",
    )  # fmt: skip
    group.add_argument(
        "--source-cameras", metavar="FILE|auto",
        help="the source's own cameras, a pose file; auto measures them (needs pycolmap; once for each video)",
    )  # fmt: skip
    add_mask_argument(group)
    group.add_argument(
        "--poses-relative-to", choices=("first-pose", "source", "world"), default="first-pose",
        help="what the poses of a file given as --camera count from: its own first pose, which is laid on the source's "
        "first frame; that frame itself; or a world shared with --source-cameras",
    )  # fmt: skip
    add_read_arguments(parser.add_argument_group("what pose files do not say"), "pose-")
    group.add_argument("--fit", choices=FIT_MODES, default="crop", help="how the picture meets the model's sizes")
    group.add_argument("--size", metavar="HxW", help="size of the result instead of the model's own")


def add_mask_argument(group) -> None:
    """--ignore-mask, for the commands that measure cameras."""
    group.add_argument(
        "--ignore-mask", type=Path, metavar="PATH",
        help="what moves, for auto: a video or folder of images of the video's size (or one image for all frames) that "
        "is not black there",
    )  # fmt: skip


def add_track_arguments(parser: argparse.ArgumentParser, required: bool = False) -> None:
    """--tracks and --depth, for the commands that follow points."""
    group = parser.add_argument_group("the points to follow")
    group.add_argument("--tracks", metavar="POINTS", required=required, help=f"follow points of the video: {HELP}")
    add_depth_argument(group)


def add_depth_argument(group) -> None:
    """--depth, for the commands that look at the scene's geometry."""
    group.add_argument(
        "--depth", metavar="FILE|auto|ID",
        help="z-depth of the video (.npy or .npz, one map a frame), from which the result takes the source's pixels, "
        "--tracks and --decoder their geometry; auto (Depth Anything V2 Small), or the hub id or folder of a depth "
        "network: estimated by it, picture by picture",
    )  # fmt: skip


def add_resolution_argument(group) -> None:
    """--resolution."""
    group.add_argument(
        "--resolution", metavar="source|model|HxW", default="source",
        help="of the result: the source's own (default), whose pixels are taken where it shows what the new camera "
        "sees; the model's; or a size",
    )  # fmt: skip


def resolution_of(text: str):
    """What --resolution says. Raises ValueError for anything else."""
    return text if text in ("source", "model") else picture_size(text, "--resolution")


def depth_file(options: argparse.Namespace) -> Path | None:
    """The file of --depth, where it names one: what is followed or decoded reads no network's depth."""
    return Path(options.depth) if is_depth_file(options.depth) else None


def track_plan(options: argparse.Namespace) -> TrackPlan | None:
    """What --tracks and --depth ask for."""
    return None if options.tracks is None else TrackPlan(options.tracks, depth_file(options))


def read_shot(options: argparse.Namespace, video: Path, sample: SamplerOptions, tracks: TrackPlan | None = None):
    """Build a `Shot` from parsed options. Raises ValueError that names the option."""
    from mvtrack.inference.pipeline import Shot

    size, notes = picture_size(options.size), ()
    if options.source_cameras == AUTO:
        camera_path(options, None)  # a bad path is said before minutes of measuring
        measured = measured_source(options, video)
        source = measured.camera
    else:
        refuse_mask(options, "--source-cameras")
        measured = source = None
        if options.source_cameras is not None:
            source, notes = video_cameras(options, options.source_cameras, video)
    path, from_file = camera_path(options, source), options.source_cameras not in (None, AUTO)
    refuse_unread(options, from_file, from_file or isinstance(path, PosePath), "--source-cameras")
    return Shot(path, fov_of(options), source, options.fit, size, sample, tracks, measured, source_notes=notes)


def told_shot(shot, options: argparse.Namespace):
    """A shot with what else the options of `reshoot` say of it."""
    from mvtrack.inference.pipeline import shipped_decoder

    told = {name: getattr(options, name) for name in ("caption", "negative", "window", "depth")}
    told["resolution"] = resolution_of(options.resolution)
    if (
        options.depth is not None
        and told["resolution"] == "model"
        and options.tracks is None
        and options.decoder is None
    ):
        raise ValueError("--depth has no effect with --resolution model: leave one of them out")
    if options.decoder is None:
        return replace(shot, **told)
    ships = options.decoder == Path("tiny") and not options.decoder.exists()
    return replace(shot, **told, decoder=shipped_decoder() if ships else options.decoder)


def fov_of(options: argparse.Namespace) -> float:
    """Field of view of a source without cameras, degrees."""
    from mvtrack.inference.pipeline import DEFAULT_FOV_DEG

    return DEFAULT_FOV_DEG if options.fov is None else options.fov


def measured_source(options: argparse.Namespace, video: Path) -> MeasuredSource:
    """What `auto` stands for."""
    return measure_source(video, options.fov, fov_of(options), options.subject_distance, options.ignore_mask)


def refuse_mask(options: argparse.Namespace, where: str) -> None:
    """Raises ValueError for a mask that nothing would read."""
    if options.ignore_mask is not None:
        raise ValueError(f"--ignore-mask is for cameras that are measured: give {where} auto too")


def refuse_unread(options: argparse.Namespace, from_file: bool, reads_poses: bool, where: str) -> None:
    """Raises ValueError for --fov beside cameras of the file that option `where` names, and for --pose-* options when
    no pose file is read."""
    if from_file and options.fov is not None:
        raise ValueError(f"--fov {options.fov:g} has no effect: the file given as {where} says it; leave it out")
    for name in () if reads_poses else read_arguments(options, "pose-"):
        shown = name.replace("_", "-")
        raise ValueError(f"--pose-{shown} has no effect, it is for pose files: give {where} FILE, or leave it out")


def picture_size(text: str | None, option: str = "--size") -> tuple[int, int] | None:
    """(H, W) of --size, or of another option."""
    if text is None:
        return None
    match = re.fullmatch(r"(\d{1,5})x(\d{1,5})", text)
    if not match or "0" in match.groups():
        raise ValueError(f"{option} must look like 480x832 (height x width), got {text!r}")
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
    from mvtrack.geometry.pose_files.timing import key_times, read_path, unit_note

    sequence = read_path(file, **read_arguments(options, "pose-"))
    camera, unit = sequence.camera, unit_note(sequence, options.subject_distance)
    focal = camera.K[:, 0, 0].double() / camera.size[1]
    origin, first_focal = camera.c2w[0].double(), focal[0]
    if options.poses_relative_to == "world" and options.source_cameras in (None, AUTO):
        raise ValueError("--poses-relative-to world needs --source-cameras FILE: where in that world the source stands")
    if options.poses_relative_to != "first-pose":
        still = source or still_camera(fov_of(options), camera.size, 1)
        origin, first_focal = still.c2w[0].double(), still.K[0, 0, 0].double() / still.size[1]
    if options.poses_relative_to == "source":
        origin = torch.eye(4, dtype=torch.float64)
    poses = relative_pose(origin, camera.c2w.double())
    reading = (*sequence.notes, *([unit] if unit else []))
    lens = focal / first_focal
    return PosePath(poses, lens, options.subject_distance, file.stem, key_times(sequence, file), reading)


def video_cameras(options: argparse.Namespace, file: str, video: Path) -> tuple[Camera, tuple[str, ...]]:
    """A video's cameras (T,) from a pose file, at the video's own size, and notes of what was done to fit them;
    `file:view` names a view of a cameras.json.

    Raises ValueError for another number of frames, unless times or names tell them, or another aspect.
    """
    from mvtrack.geometry.pose_files.timing import FrameGrid, read_video_cameras
    from mvtrack.video.reader import open_video

    arguments, (name, _, view) = read_arguments(options, "pose-"), file.rpartition(":")
    if name and not Path(file).exists():
        file, arguments = name, arguments | {"view": view}
    return read_video_cameras(Path(file), FrameGrid.of(open_video(video)), **arguments)
