"""`python mvtrack/cli/track.py a.mp4 b.mp4 --tracks grid:20`; the same as `mvtrack track`."""

import sys
from pathlib import Path

from mvtrack.config.checked import config
from mvtrack.config.command_line import option, positional, refuse_unused, run, section
from mvtrack.config.placement import Placement
from mvtrack.config.pose_files import PoseFileOptions
from mvtrack.inference.model_options import LESS_MEMORY, PLACEMENT, TRACKING_MODEL, ModelCommand, SamplingOptions
from mvtrack.inference.shot_options import (
    AUTO,
    POSE_FILES,
    PointOptions,
    SourceOptions,
    estimate_source,
    file_and_view,
    refuse_unread,
    video_cameras,
)


@config(kw_only=True)
class TrackCommand(ModelCommand):
    """Follow points of a video through it and through other videos of the scene."""

    videos: tuple[Path, ...] = positional("the video with the points, then other views of the scene")
    model: str | None = option(None, TRACKING_MODEL)
    points: PointOptions = section(PointOptions, "the points to follow", required=("tracks",))
    cameras: tuple[str, ...] = option(
        (),
        "a pose file per video, in one world; FILE:VIEW of a file with several views; auto estimates those of a single "
        "video (needs pycolmap); none: all stand still at one place",
        metavar="FILE",
    )
    source: SourceOptions = section(SourceOptions, "the videos", fit="pad")
    pose: PoseFileOptions = section(PoseFileOptions, POSE_FILES, prefix="pose-")
    sampling: SamplingOptions = section(
        SamplingOptions, "the scene", without=("steps", "seed", "guidance", "negative", "cache")
    )
    placement: Placement = section(Placement, PLACEMENT, without=("batched_guidance", "gpus", "share"))


def main(arguments: list[str] | None = None) -> int:
    """Parse, check, follow; prints where the results are."""
    return run(TrackCommand, _track, arguments, "mvtrack track", LESS_MEMORY)


def _track(options: TrackCommand) -> None:
    from mvtrack.inference.tracking.track_files import TrackOptions, track_files

    options.points.refuse_network()
    cameras, measured = _cameras(options)
    source = options.source
    how = TrackOptions(
        cameras, source.fov_deg, source.subject_distance, source.fit, source.size, measured, options.sampling.caption,
        source.reading,
    )  # fmt: skip
    done = track_files(
        list(options.videos), options.points.plan(), options.model, options.out, how, options.overwrite,
        options.placement, check_memory=not options.ignore_memory, say=_say if options.verbose else None, warn=_say,
    )  # fmt: skip
    for note in done.notes:
        _say(note)
    for path in done.files:
        sys.stdout.write(f"{path}\n")


def _say(line: str) -> None:
    sys.stderr.write(f"mvtrack track: {line}\n")


def _cameras(options: TrackCommand):
    """The cameras of every video where they are given or can be estimated, and how they were estimated."""
    from mvtrack.geometry.pose_files.files import shared_options

    from_files = options.cameras not in ((), (AUTO,))
    refuse_unread(options, from_files, from_files, "--cameras")
    if options.cameras == (AUTO,):
        if len(options.videos) > 1:
            raise ValueError("--cameras auto estimates one video; several need pose files in one world")
        measured = estimate_source(options.source, options.videos[0])
        return None if measured.camera is None else (measured.camera,), measured
    refuse_unused(options, "ignore_mask", why="it is for cameras that are estimated: give --cameras auto")
    if not options.cameras:
        return None, None
    if len(options.cameras) != len(options.videos):
        raise ValueError(
            f"--cameras names {len(options.cameras)} files for {len(options.videos)} videos: give one of each"
        )
    each = shared_options([file_and_view(file)[0] for file in options.cameras], options.pose.given)
    read = [
        video_cameras(given, file, video, options.source.reading)
        for given, file, video in zip(each, options.cameras, options.videos, strict=True)
    ]
    for note in [note for _, notes in read for note in notes]:
        _say(note)
    return tuple(camera for camera, _ in read), None


if __name__ == "__main__":
    sys.exit(main())
