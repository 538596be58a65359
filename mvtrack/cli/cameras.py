"""`mvtrack cameras inspect|convert|check|measure|formats`: pose files of every format, and of videos that have none."""

import argparse
import re
import sys
from pathlib import Path

from mvtrack.config.errors import run_command
from mvtrack.geometry.pose_files.arguments import add_read_arguments, read_arguments
from mvtrack.geometry.trajectory import PIVOT_M


def main(arguments: list[str] | None = None) -> int:
    """Parse, then show, convert, check or measure."""
    parser = argparse.ArgumentParser(prog="mvtrack cameras", description="Inspect, convert, check and measure cameras.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, (work, text) in _COMMANDS.items():
        command = commands.add_parser(name, help=text, description=text.capitalize() + ".")
        command.set_defaults(work=work)
        command.add_argument("--debug", action="store_true", help="show a traceback when something fails")
        if name == "measure":
            _add_measure_arguments(command)
        elif name != "formats":
            command.add_argument("file", type=Path, metavar="FILE", help="a pose file, or a folder of one")
            add_read_arguments(command.add_argument_group("what the file does not say"))
        if name == "convert":
            _add_convert_arguments(command)
        if name == "check":
            command.add_argument("--video", type=Path, help="the video that the cameras are for")
    options = parser.parse_args(arguments)
    return run_command(lambda: options.work(options), f"{parser.prog} {options.command}", options.debug)


def _add_convert_arguments(command: argparse.ArgumentParser) -> None:
    command.add_argument("out", type=Path, metavar="OUT", help="file to write, or folder for the formats that are one")
    command.add_argument("--to", required=True, metavar="FORMAT", help="see `mvtrack cameras formats`")
    command.add_argument("--overwrite", action="store_true", help="replace OUT if it is a file that exists")
    group = command.add_argument_group("changes on the way, in this order")
    group.add_argument("--read-as", metavar="'AXES DIRECTION'", help="what the numbers are instead, as `check` says")
    group.add_argument("--frames", metavar="START:STOP:STEP", help="some frames only, counted from 0")
    group.add_argument("--scale", type=float, metavar="F", help="multiply all lengths")
    group.add_argument("--fps", type=float, help="give the frames times, from 0")
    group.add_argument("--rename", metavar="PATTERN", help="new names, such as frame_{:05d}")


def _add_measure_arguments(command: argparse.ArgumentParser) -> None:
    command.add_argument("video", type=Path, metavar="VIDEO", help="video file, GIF, folder of images")
    command.add_argument("out", type=Path, metavar="OUT", help="file to write, or folder for the formats that are one")
    command.add_argument("--to", default="json", metavar="FORMAT", help="see `mvtrack cameras formats`; default json")
    command.add_argument("--fov", type=float, metavar="DEG", help="horizontal field of view, where it is known")
    command.add_argument(
        "--subject-distance", type=float, default=PIVOT_M, metavar="D",
        help="what the middle depth of the first frame is called (default 4): pictures do not tell the scene's size",
    )  # fmt: skip
    command.add_argument("--ignore-mask", type=Path, metavar="PATH", help="as for `mvtrack reshoot`: what moves")
    command.add_argument("--overwrite", action="store_true", help="replace OUT if it is a file that exists")


def _inspect(options: argparse.Namespace) -> None:
    from mvtrack.geometry.pose_files.files import read_cameras
    from mvtrack.geometry.pose_files.summary import describe

    sys.stdout.write(describe(read_cameras(options.file, **read_arguments(options))) + "\n")


def _convert(options: argparse.Namespace) -> None:
    from mvtrack.geometry.pose_files.files import read_cameras, write_cameras
    from mvtrack.geometry.pose_files.registry import find_format, held_back

    found = find_format(options.to)
    sequence = _changed(read_cameras(options.file, **read_arguments(options)), options)
    lost = held_back(sequence, found)
    path = write_cameras(options.out, sequence, found.name, options.overwrite)
    sys.stdout.write(f"{path}: {sequence.num_frames} cameras as {found.name}\n")
    if lost:
        sys.stderr.write(f"left out, since {found.name} cannot hold it: {', '.join(lost)}\n")


def _changed(sequence, options: argparse.Namespace):
    """The sequence after --read-as, --frames, --scale, --fps and --rename."""
    from mvtrack.geometry.pose_files import editing
    from mvtrack.geometry.pose_files.conventions import reinterpret

    if options.read_as is not None:
        sequence = reinterpret(sequence, options.read_as)
    if options.frames is not None:
        match = re.fullmatch(r"(\d{0,9}):(\d{0,9})(?::(\d{1,9}))?", options.frames)
        if not match:
            raise ValueError(f"--frames must look like 0:81 or 0:81:4, got {options.frames!r}")
        sequence = editing.some_frames(sequence, *(int(part) if part else None for part in match.groups()))
    if options.scale is not None:
        sequence = editing.scaled(sequence, options.scale)
    if options.fps is not None:
        sequence = editing.timed(sequence, options.fps)
    return sequence if options.rename is None else editing.renamed(sequence, options.rename)


def _check(options: argparse.Namespace) -> None:
    from mvtrack.geometry.pose_files.diagnosis import FAIL, compare_with_video, diagnose, match_frames
    from mvtrack.geometry.pose_files.files import read_cameras
    from mvtrack.geometry.pose_files.parse import shown_path
    from mvtrack.geometry.pose_files.summary import list_findings
    from mvtrack.geometry.pose_files.timing import FrameGrid
    from mvtrack.video.reader import open_video

    sequence = read_cameras(options.file, **read_arguments(options))
    if options.video is None:
        findings = diagnose(sequence)
    else:
        footage = open_video(options.video)
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


def _measure(options: argparse.Namespace) -> None:
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
    sequence = CameraSequence(measured.camera, frame_names(frames), times)
    path = write_cameras(options.out, sequence, found.name, options.overwrite)
    for note in measured.notes:
        sys.stderr.write(f"mvtrack cameras measure: {note}\n")
    sys.stdout.write(f"{path}: {frames} cameras as {found.name}\n")


def _formats(options: argparse.Namespace) -> None:
    from mvtrack.geometry.pose_files.summary import list_formats

    sys.stdout.write(list_formats() + "\n")


_COMMANDS = {
    "inspect": (_inspect, "say what a pose file holds"),
    "convert": (_convert, "write a pose file in another format"),
    "check": (_check, "look for cameras that cannot be right: rotations, lens, times, scale, jumps, axes"),
    "measure": (_measure, "find the cameras of a video by structure from motion, and write them (needs pycolmap)"),
    "formats": (_formats, "list the formats, what they mean, and their options"),
}


if __name__ == "__main__":
    sys.exit(main())
