"""`mvtrack cameras inspect|convert|check|measure|formats`: pose files of every format, and of videos that have none."""

import re
import sys
from pathlib import Path
from typing import Annotated

from mvtrack.config.checked import Positive, Range, config
from mvtrack.config.command_line import Command, option, positional, run, section
from mvtrack.config.errors import did_you_mean
from mvtrack.config.pose_files import PoseFileOptions
from mvtrack.geometry.presets import PIVOT_M

FORMAT_HELP = "see `mvtrack cameras formats`"
OUT_HELP = "file to write, or folder for the formats that are one"


def _frames(text: str) -> tuple[int | None, ...]:
    match = re.fullmatch(r"(\d{0,9}):(\d{0,9})(?::(\d{1,9}))?", text)
    if not match:
        raise ValueError(f"must look like 0:81 or 0:81:4, got {text!r}")
    return tuple(int(part) if part else None for part in match.groups())


@config(kw_only=True)
class InspectCameras(Command):
    """Say what a pose file holds."""

    file: Path = positional("a pose file, or a folder of one", metavar="FILE")
    reading: PoseFileOptions = section(PoseFileOptions, "what the file does not say")


@config(kw_only=True)
class ConvertCameras(InspectCameras):
    """Write a pose file in another format, with changes on the way in the order below."""

    out: Path = positional(OUT_HELP, metavar="OUT")
    to: str = option(..., FORMAT_HELP, metavar="FORMAT")
    overwrite: bool = option(False, "replace OUT if it is a file that exists")
    read_as: str | None = option(None, "what the numbers are instead, as `check` says", metavar="'AXES DIRECTION'")
    frames: tuple[int | None, ...] | None = option(
        None, "some frames only, counted from 0", metavar="START:STOP:STEP", parse=_frames
    )
    scale: Annotated[float, Range(1e-9, 1e9)] | None = option(None, "multiply all lengths", metavar="F")
    fps: Annotated[float, Range(1e-3, 1e6)] | None = option(None, "give the frames times, from 0")
    rename: str | None = option(None, "new names, such as frame_{:05d}", metavar="PATTERN")


@config(kw_only=True)
class CheckCameras(InspectCameras):
    """Look for cameras that cannot be right: rotations, lens, times, scale, jumps, axes."""

    video: Path | None = option(None, "the video that the cameras are for")


@config(kw_only=True)
class MeasureCameras(Command):
    """Find the cameras of a video by structure from motion, and write them (needs pycolmap)."""

    video: Path = positional("video file, GIF, folder of images", metavar="VIDEO")
    out: Path = positional(OUT_HELP, metavar="OUT")
    to: str = option("json", FORMAT_HELP, metavar="FORMAT")
    fov: Annotated[float, Range(1, 170)] | None = option(
        None, "horizontal field of view, where it is known", metavar="DEG"
    )
    subject_distance: Positive = option(
        PIVOT_M,
        "what the middle depth of the first frame is called: pictures do not tell the scene's size",
        metavar="D",
    )
    ignore_mask: Path | None = option(None, "as for `mvtrack reshoot`: what moves", metavar="PATH")
    overwrite: bool = option(False, "replace OUT if it is a file that exists")


@config(kw_only=True)
class ListFormats(Command):
    """List the formats, what they mean, and their options."""


def main(arguments: list[str] | None = None) -> int:
    """Parse, then show, convert, check or measure."""
    name, *rest = (sys.argv[1:] if arguments is None else arguments) or [""]
    if name in ("", "-h", "--help"):
        lines = [f"  {command:<8}  {cls.__doc__}\n" for command, (cls, _) in _COMMANDS.items()]
        sys.stdout.write("".join(["usage: mvtrack cameras COMMAND [options]\n\n", *lines]))
        return 0 if name else 2
    if name not in _COMMANDS:
        hint = did_you_mean(name, _COMMANDS) or f"; known: {', '.join(_COMMANDS)}"
        sys.stderr.write(f"mvtrack cameras: unknown command {name!r}{hint}\n")
        return 2
    return run(*_COMMANDS[name], rest, f"mvtrack cameras {name}")


def _inspect(options: InspectCameras) -> None:
    from mvtrack.geometry.pose_files.files import read_cameras
    from mvtrack.geometry.pose_files.summary import describe

    sys.stdout.write(describe(read_cameras(options.file, **options.reading.given)) + "\n")


def _convert(options: ConvertCameras) -> None:
    from mvtrack.geometry.pose_files.files import read_cameras, write_cameras
    from mvtrack.geometry.pose_files.registry import find_format, held_back

    found = find_format(options.to)
    sequence = _changed(read_cameras(options.file, **options.reading.given), options)
    lost = held_back(sequence, found)
    path = write_cameras(options.out, sequence, found.name, options.overwrite)
    sys.stdout.write(f"{path}: {sequence.num_frames} cameras as {found.name}\n")
    if lost:
        sys.stderr.write(f"left out, since {found.name} cannot hold it: {', '.join(lost)}\n")


def _changed(sequence, options: ConvertCameras):
    """The sequence after --read-as, --frames, --scale, --fps and --rename."""
    from mvtrack.geometry.pose_files import editing
    from mvtrack.geometry.pose_files.conventions import reinterpret

    if options.read_as is not None:
        sequence = reinterpret(sequence, options.read_as)
    if options.frames is not None:
        sequence = editing.some_frames(sequence, *options.frames)
    if options.scale is not None:
        sequence = editing.scaled(sequence, options.scale)
    if options.fps is not None:
        sequence = editing.timed(sequence, options.fps)
    return sequence if options.rename is None else editing.renamed(sequence, options.rename)


def _check(options: CheckCameras) -> None:
    from mvtrack.geometry.pose_files.diagnosis import FAIL, compare_with_video, diagnose, match_frames
    from mvtrack.geometry.pose_files.files import read_cameras
    from mvtrack.geometry.pose_files.parse import shown_path
    from mvtrack.geometry.pose_files.summary import list_findings
    from mvtrack.geometry.pose_files.timing import FrameGrid, read_with_defaults
    from mvtrack.video.reader import open_video

    given = options.reading.given
    if options.video is None:
        sequence = read_cameras(options.file, **given)
        findings = diagnose(sequence)
    else:
        footage = open_video(options.video)
        sequence = read_with_defaults(options.file, {"size": footage.size}, **given)
        matched, frames = match_frames(sequence, shown_path(options.file), FrameGrid.of(footage))
        findings = [frames, *diagnose(matched, footage.size)]
        if all(found.level != FAIL for found in findings if found.topic in ("frames", "size")):
            findings.append(compare_with_video(matched, footage.size, lambda *frame: _frame(footage, *frame)))
    sys.stdout.write(list_findings(findings) + "\n")
    failed = [found.topic for found in findings if found.level == FAIL]
    if failed:
        raise ValueError(f"{shown_path(options.file)}: not right: {', '.join(failed)}")


def _frame(footage, index: int, size: tuple[int, int]):
    """One frame (H, W, 3) of a video, at a size."""
    return footage.read(index, index + 1, size)[0].permute(1, 2, 0).numpy()


def _measure(options: MeasureCameras) -> None:
    import torch

    from mvtrack.geometry.pose_files.files import write_cameras
    from mvtrack.geometry.pose_files.registry import find_format
    from mvtrack.geometry.pose_files.sequence import CameraSequence, frame_names
    from mvtrack.inference.camera_estimation.source_cameras import measured_cameras
    from mvtrack.video.reader import open_video

    found = find_format(options.to)
    measured = measured_cameras(options.video, options.fov, options.subject_distance, options.ignore_mask)
    frames, fps = measured.camera.shape[0], open_video(options.video).fps
    times = torch.arange(frames, dtype=torch.float64) / fps
    sequence = CameraSequence(measured.camera, frame_names(frames), times, points=measured.points)
    path = write_cameras(options.out, sequence, found.name, options.overwrite)
    for note in measured.notes:
        sys.stderr.write(f"mvtrack cameras measure: {note}\n")
    sys.stdout.write(f"{path}: {frames} cameras as {found.name}\n")


def _formats(options: ListFormats) -> None:
    from mvtrack.geometry.pose_files.summary import list_formats

    sys.stdout.write(list_formats() + "\n")


_COMMANDS = {
    "inspect": (InspectCameras, _inspect),
    "convert": (ConvertCameras, _convert),
    "check": (CheckCameras, _check),
    "measure": (MeasureCameras, _measure),
    "formats": (ListFormats, _formats),
}


if __name__ == "__main__":
    sys.exit(main())
