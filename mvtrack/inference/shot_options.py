"""The options that say what a shot is, for every command that takes one, and how they become a `Shot`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from mvtrack.config.checked import Positive, Range, config
from mvtrack.config.command_line import option, refuse_unused, section
from mvtrack.config.pose_files import PoseFileOptions
from mvtrack.config.sizes import FitMode, picture_size
from mvtrack.config.video_reading import VideoReading
from mvtrack.files.addresses import refuse_address
from mvtrack.geometry.presets import PIVOT_M, PRESETS, Speed

if TYPE_CHECKING:
    from mvtrack.geometry.camera import Camera
    from mvtrack.geometry.keyframe_path import PosePath
    from mvtrack.geometry.path_language import ComposedPath
    from mvtrack.geometry.trajectory import CameraMotion
    from mvtrack.inference.camera_estimation.source_cameras import MeasuredSource
    from mvtrack.inference.pipeline import Shot
    from mvtrack.inference.sampler import SamplerOptions
    from mvtrack.inference.tracking.generated_tracks import TrackPlan

AUTO = "auto"  # cameras that are estimated
POINTS = (
    "grid:20, points.csv (columns frame,x,y and perhaps id), or mask.png; @40 after grid or mask: at video frame 40"
)
POSE_FILES = "what pose files do not say"


@config
class SourceOptions:
    """A video that has no cameras of its own, and how its pictures meet the model's."""

    subject_distance: Positive = option(
        PIVOT_M, "distance of the subject in metres, or in the pose file's unit", metavar="M"
    )
    fov: Annotated[float, Range(1, 170)] | None = option(
        None,
        "horizontal field of view of a source without cameras (default 50); where cameras are estimated (auto), it is "
        "too, unless given",
        metavar="DEG",
    )
    ignore_mask: Path | None = option(
        None,
        "what moves, for auto: a video or folder of images of the video's size (or one image for all frames) that is "
        "not black there",
        metavar="PATH",
    )
    fit: FitMode = option(
        "auto", "how the picture meets the model's sizes; auto crops where little is lost, and else pads"
    )
    size: tuple[int, int] | None = option(
        None, "size of the model's picture, instead of its own", metavar="HxW", parse=picture_size
    )
    reading: VideoReading = section(VideoReading, "how files are read")

    @property
    def fov_deg(self) -> float:
        """Field of view of a source without cameras, degrees."""
        from mvtrack.inference.pipeline import DEFAULT_FOV_DEG

        return DEFAULT_FOV_DEG if self.fov is None else self.fov


@config
class ShotOptions(SourceOptions):
    """A camera path and everything that says what it means."""

    camera: str | None = option(
        None,
        f"a preset ({', '.join(PRESETS)}), a path such as 'arc_left 30deg; dolly_in 0.5 ease', or a pose file",
        metavar="PATH",
    )
    amount: float | None = option(None, "of a single move: degrees, metres, or a lens factor")
    speed: Speed | None = option(None, "of a single move")
    source_cameras: str | None = option(
        None,
        "the source's own cameras, a pose file; auto estimates them (needs pycolmap; once for each video)",
        metavar="FILE|auto",
    )
    poses_relative_to: Literal["first-pose", "source", "world"] = option(
        "first-pose",
        "what the poses of a file given as --camera count from: its own first pose, which is laid on the source's "
        "first frame; that frame itself; or a world shared with --source-cameras",
    )
    pose: PoseFileOptions = section(PoseFileOptions, POSE_FILES, prefix="pose-")


@config
class PointOptions:
    """Points to follow."""

    tracks: str | None = option(None, f"follow points of the video: {POINTS}", metavar="POINTS")
    depth: str | None = option(
        None,
        "z-depth of the video (.npy or .npz, one map a frame), from which --tracks and --decoder take their geometry, "
        "and a re-shot result the source's pixels; for these alone also auto (Depth Anything V2 Small), or a network's "
        "hub id or folder: estimated by it, picture by picture",
        metavar="FILE|auto|ID",
    )

    def plan(self) -> "TrackPlan | None":
        """What is followed; depth is read from a file only, not estimated by a network."""
        from mvtrack.inference.tracking.generated_tracks import TrackPlan
        from mvtrack.video.depth_file import is_depth_file

        depth = Path(self.depth) if is_depth_file(self.depth) else None
        return None if self.tracks is None else TrackPlan(self.tracks, depth)

    def refuse_network(self) -> None:
        """Raises ValueError for depth of a network, where only files are read."""
        from mvtrack.video.depth_file import is_depth_file

        if self.depth is not None and not is_depth_file(self.depth):
            raise ValueError(f"--depth {self.depth} is no .npy or .npz, and --tracks and --decoder read nothing else")


def resolution(text: str) -> str | tuple[int, int]:
    """What --resolution says: source, model or a size. Raises ValueError for anything else."""
    return text if text in ("source", "model") else picture_size(text)


def read_shot(
    options: ShotOptions, video: Path, sample: "SamplerOptions | None" = None, tracks: "TrackPlan | None" = None
) -> "Shot":
    """Build a `Shot`. Raises ValueError that names the option."""
    from mvtrack.geometry.keyframe_path import PosePath
    from mvtrack.inference.pipeline import Shot

    if options.camera is None:
        raise ValueError(f"--camera is needed: the path along which {video} is re-shot")
    notes: tuple[str, ...] = ()
    of_path, of_source = _pose_options(options)
    if options.source_cameras == AUTO:
        camera_path(options, of_path, None, video)  # a bad path is said before minutes of estimation
        measured = estimate_source(options, video)
        source = measured.camera
    else:
        refuse_unused(options, "ignore_mask", why="it is for cameras that are estimated: give --source-cameras auto")
        measured = source = None
        if options.source_cameras is not None:
            source, notes = video_cameras(of_source, options.source_cameras, video, options.reading)
    path, from_file = camera_path(options, of_path, source, video), options.source_cameras not in (None, AUTO)
    refuse_unread(options, from_file, from_file or isinstance(path, PosePath), "--source-cameras")
    return Shot(
        path, options.fov_deg, source, options.fit, options.size, sample, tracks, measured, source_notes=notes,
        reading=options.reading,
    )  # fmt: skip


def estimate_source(options: SourceOptions, video: Path) -> "MeasuredSource":
    """What `auto` stands for."""
    from mvtrack.inference.camera_estimation.source_cameras import measure_source

    return measure_source(
        video, options.fov, options.fov_deg, options.subject_distance, options.ignore_mask, options.reading
    )


def refuse_unread(options: Any, from_file: bool, reads_poses: bool, where: str) -> None:
    """Raises ValueError for --fov beside cameras of the file that option `where` names, and for --pose-* options when
    no pose file is read."""
    if from_file:
        refuse_unused(options, "fov", why=f"the file given as {where} says it; leave it out")
    if not reads_poses:
        refuse_unused(options, "pose", why=f"it is for pose files: give {where} FILE, or leave it out")


def _is_file(camera: str) -> bool:
    return bool(camera) and Path(camera).exists() and camera not in PRESETS


def check_moves(options: ShotOptions, video: Path) -> None:
    """Raises ValueError for a path of moves that cannot be read; pose files are read when the video's turn comes."""
    if not _is_file(options.camera):
        camera_path(options, {}, None, video)


def _pose_options(options: ShotOptions) -> tuple[dict, dict]:
    """The --pose-* options of the file given as --camera, and of the one given as --source-cameras."""
    from mvtrack.geometry.pose_files.files import shared_options

    given = options.pose.given
    if options.source_cameras in (None, AUTO) or not _is_file(options.camera):
        return given, given
    of_path, of_source = shared_options([Path(options.camera), file_and_view(options.source_cameras)[0]], given)
    return of_path, of_source


def camera_path(options: ShotOptions, given: dict, source: "Camera | None", video: Path) -> "CameraMotion":
    """The path that --camera names: a pose file if there is one of that name, else the path language. given: what the
    pose file does not say."""
    from mvtrack.geometry.path_language import parse_path

    file = Path(options.camera)
    if _is_file(options.camera):
        refuse_unused(options, "amount", "speed", why="it is for a single move, not for a pose file")
        return _path_from_file(options, file, given, source, video)
    refuse_unused(options, "poses_relative_to", why="it is for a pose file given as --camera")
    refuse_address(options.camera)
    if "/" in options.camera or file.suffix in {".json", ".txt", ".npz", ".bin"}:
        raise ValueError(f"pose file {file} does not exist")
    return _with_amount(parse_path(options.camera, options.subject_distance), options)


def _with_amount(path: "ComposedPath", options: ShotOptions) -> "ComposedPath":
    from dataclasses import replace

    from mvtrack.geometry.path_language import Segment

    if options.amount is None and options.speed is None:
        return path
    if len(path.segments) > 1 or len(path.segments[0].moves) > 1:
        raise ValueError("--amount and --speed are for a single move: write them into the path instead")
    move = path.segments[0].moves[0]
    if options.amount is not None:
        move = replace(move, amount=options.amount, unit=None)
    move = replace(move, speed=options.speed or move.speed)
    return replace(path, segments=(Segment((move,), 1.0),))


def _path_from_file(options: ShotOptions, file: Path, given: dict, source: "Camera | None", video: Path) -> "PosePath":
    """Poses of a file relative to the source's first frame, with focal lengths over that frame's (or the first's)."""
    import torch

    from mvtrack.geometry.camera import relative_pose
    from mvtrack.geometry.keyframe_path import PosePath
    from mvtrack.geometry.pose_files.timing import FrameGrid, key_times, read_path, stretch_note, unit_note
    from mvtrack.video.reader import open_video
    from mvtrack.video.resize import still_camera

    sequence = read_path(file, **given)
    grid = FrameGrid.of(open_video(video, fps=options.reading.fps, damaged=options.reading.damaged))
    camera, unit = sequence.camera, unit_note(sequence, options.subject_distance)
    focal = camera.K[:, 0, 0].double() / camera.size[1]
    origin, first_focal = camera.c2w[0].double(), focal[0]
    if options.poses_relative_to == "world" and options.source_cameras in (None, AUTO):
        raise ValueError("--poses-relative-to world needs --source-cameras FILE: where in that world the source stands")
    if options.poses_relative_to != "first-pose":
        still = source or still_camera(options.fov_deg, camera.size, 1)
        origin, first_focal = still.c2w[0].double(), still.K[0, 0, 0].double() / still.size[1]
    if options.poses_relative_to == "source":
        origin = torch.eye(4, dtype=torch.float64)
    poses = relative_pose(origin, camera.c2w.double())
    reading = (*sequence.notes, *(note for note in (unit, stretch_note(sequence, grid)) if note))
    lens, times = focal / first_focal, key_times(sequence, file, grid)
    return PosePath(poses, lens, options.subject_distance, file.stem, times, reading)


def file_and_view(text: str) -> tuple[Path, dict]:
    """A pose file, and the option that names a view of it where `FILE:VIEW` does."""
    refuse_address(text)
    name, _, view = text.rpartition(":")
    return (Path(name), {"view": view}) if name and not Path(text).exists() else (Path(text), {})


def video_cameras(given: dict, file: str, video: Path, reading: VideoReading) -> "tuple[Camera, tuple[str, ...]]":
    """A video's cameras (T,) from a pose file, at the video's own size, and notes of what was done to fit them;
    `file:view` names a view of a cameras.json. given: what the file does not say.

    Raises ValueError for another number of frames, unless times or names tell them, or another aspect.
    """
    from mvtrack.geometry.pose_files.timing import FrameGrid, read_video_cameras
    from mvtrack.video.reader import open_video

    path, view = file_and_view(file)
    footage = open_video(video, fps=reading.fps, damaged=reading.damaged)
    return read_video_cameras(path, FrameGrid.of(footage), **given | view)
