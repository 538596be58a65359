"""The command line's form of `read_cameras`' options, for every command that takes a pose file."""

import argparse

from mvtrack.geometry.pose_files.options import DIRECTIONS, ORDERS, QUATERNIONS
from mvtrack.geometry.pose_files.registry import FORMATS

_VALUES = {
    "size": ("HxW", "image size, height x width, where the file has none"),
    "fov": ("DEG", "horizontal field of view, where the file has no intrinsics"),
    "focal-px": ("PX", "or the focal length in pixels"),
    "focal-mm": ("MM", "or the focal length in millimetres"),
    "sensor-mm": ("MM", "width of the sensor that --focal-mm is for"),
    "camera": ("NAME", "which camera of a file that holds several"),
    "view": ("NAME", "which view of a cameras.json"),
    "convention": ("WORDS", f"of plain arrays that do not say: axes, {' or '.join(DIRECTIONS)}, raster or index"),
    "quaternion": ("|".join(QUATERNIONS), "where w stands in a trajectory's quaternions, where that is not clear"),
    "order": ("|".join(ORDERS), "of frames whose names do not ascend"),
}
_SWITCHES = {
    "drop-distortion": "take a distorted lens as a pinhole: pictures are off by the pixels that are said",
    "metric": "the unit is metres, though the file does not say so",
    "undo-applied-transform": "return to the world before transforms.json's applied_transform",
}


def add_read_arguments(parser, prefix: str = "") -> None:
    """Add --format and every reading option to a parser or group; with `prefix` "pose-": --pose-format and so on."""
    parser.add_argument(f"--{prefix}format", metavar="NAME", help=f"instead of finding it: {', '.join(FORMATS)}")
    for name, (metavar, text) in _VALUES.items():
        parser.add_argument(f"--{prefix}{name}", metavar=metavar, help=text)
    for name, text in _SWITCHES.items():
        parser.add_argument(f"--{prefix}{name}", action="store_true", help=text)


def read_arguments(options: argparse.Namespace, prefix: str = "") -> dict:
    """Keyword arguments for `read_cameras`: the format, and the options that were given."""
    names = [name.replace("-", "_") for name in ("format", *_VALUES, *_SWITCHES)]
    given = {name: getattr(options, prefix.replace("-", "_") + name) for name in names}
    return {name: value for name, value in given.items() if value not in (None, False)}
