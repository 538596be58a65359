"""`python mvtrack/cli/track.py a.mp4 b.mp4 --tracks grid:20`; the same as `mvtrack track`."""

import argparse
import sys
from pathlib import Path

from mvtrack.config.errors import run_command
from mvtrack.geometry.pose_files.arguments import add_read_arguments
from mvtrack.geometry.trajectory import PIVOT_M
from mvtrack.inference.camera_estimation.source_cameras import AUTO
from mvtrack.inference.model_options import (
    LESS_MEMORY,
    add_caption_argument,
    add_memory_argument,
    add_placement_arguments,
    read_placement,
)
from mvtrack.inference.shot_options import (
    add_mask_argument,
    add_track_arguments,
    fov_of,
    measured_source,
    refuse_mask,
    refuse_unread,
    video_cameras,
)
from mvtrack.video.resize import FIT_MODES


def main(arguments: list[str] | None = None) -> int:
    """Parse, check, follow; prints where the results are."""
    parser = argparse.ArgumentParser(
        prog="mvtrack track", description="Follow points of a video through it and through other videos of the scene."
    )
    parser.add_argument("videos", type=Path, nargs="+", help="the video with the points, then other views of the scene")
    add_track_arguments(parser, required=True)
    group = parser.add_argument_group("the cameras")
    group.add_argument(
        "--cameras", nargs="+", metavar="FILE",
        help="a pose file per video, in one world; FILE:VIEW of a file with several views; auto measures those of a "
        "single video (needs pycolmap); none: all stand still at one place",
    )  # fmt: skip
    group.add_argument(
        "--fov", type=float, metavar="DEG",
        help="horizontal field of view of still cameras (default 50); with --cameras auto it is measured unless given",
    )  # fmt: skip
    add_mask_argument(group)
    group.add_argument(
        "--subject-distance", type=float, default=PIVOT_M, metavar="M",
        help="distance of the subject in metres, or in the pose files' unit (default 4)",
    )  # fmt: skip
    add_read_arguments(parser.add_argument_group("what pose files do not say"), "pose-")
    parser.add_argument("--fit", choices=FIT_MODES, default="pad", help="how the picture meets the model's sizes")
    parser.add_argument("--size", metavar="HxW", help="size at which the model looks, instead of its own")
    parser.add_argument("--model", help="folder of a model with a tracking head; default: the model that ships")
    parser.add_argument("--out", type=Path, help="folder for the results; default outputs/<first video>_tracks")
    add_caption_argument(parser)
    add_placement_arguments(parser, samples=False)
    add_memory_argument(parser)
    parser.add_argument("--overwrite", action="store_true", help="replace an existing output folder")
    parser.add_argument("--debug", action="store_true", help="show a traceback when something fails")
    options = parser.parse_args(arguments)
    return run_command(lambda: _track(options), parser.prog, options.debug, LESS_MEMORY)


def _track(options: argparse.Namespace) -> None:
    from mvtrack.inference.shot_options import picture_size, track_plan
    from mvtrack.inference.tracking.track_files import TrackOptions, track_files

    size, plan = picture_size(options.size), track_plan(options)
    cameras, measured = _cameras(options)
    how = TrackOptions(cameras, fov_of(options), options.subject_distance, options.fit, size, measured, options.caption)
    placement = read_placement(options)
    done = track_files(
        options.videos, plan, options.model, options.out, how, options.overwrite, placement,
        check_memory=not options.ignore_memory, say=lambda line: sys.stderr.write(f"mvtrack track: {line}\n"),
    )  # fmt: skip
    for note in done.notes:
        sys.stderr.write(f"mvtrack track: {note}\n")
    for path in done.files:
        sys.stdout.write(f"{path}\n")


def _cameras(options: argparse.Namespace):
    """The cameras of every video where they are given or can be measured, and how they were measured."""
    from_files = options.cameras not in (None, [AUTO])
    refuse_unread(options, from_files, from_files, "--cameras")
    if options.cameras == [AUTO]:
        if len(options.videos) > 1:
            raise ValueError("--cameras auto measures one video; several need pose files in one world")
        measured = measured_source(options, options.videos[0])
        return None if measured.camera is None else (measured.camera,), measured
    refuse_mask(options, "--cameras")
    if options.cameras is None:
        return None, None
    if len(options.cameras) != len(options.videos):
        raise ValueError(
            f"--cameras names {len(options.cameras)} files for {len(options.videos)} videos: give one of each"
        )
    read = [video_cameras(options, *pair) for pair in zip(options.cameras, options.videos, strict=True)]
    for note in [note for _, notes in read for note in notes]:
        sys.stderr.write(f"mvtrack track: {note}\n")
    return tuple(camera for camera, _ in read), None


if __name__ == "__main__":
    sys.exit(main())
