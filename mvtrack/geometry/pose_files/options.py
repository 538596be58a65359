"""How readers use the options that say what a file does not: by name, as an image size, a lens, a convention."""

import dataclasses
import math
from typing import get_args

import torch
from jaxtyping import Float
from torch import Tensor

from mvtrack.config.errors import did_you_mean
from mvtrack.config.pose_files import QuaternionOrder, ReadOptions, option_name
from mvtrack.config.sizes import picture_size
from mvtrack.geometry.pose_files.geometry import AXES
from mvtrack.geometry.pose_files.parse import Place, show, text_number

DIRECTIONS = ("c2w", "w2c")
PIXELS = ("raster", "index")
QUATERNIONS: tuple[QuaternionOrder, ...] = get_args(QuaternionOrder)
_NUMBERS = ("fov", "focal_px", "focal_mm", "sensor_mm")


def needed(name: str) -> str:
    """That an option has to be given, as a phrase."""
    return f"the option {option_name(name)} is needed"


def make_options(given: dict, allowed: tuple[str, ...], format_name: str) -> ReadOptions:
    """Options by name; a size may be text such as 480x832, numbers may be text, too.

    Raises ValueError for a name that does not exist or that this format does not take, and for a wrong value.
    """
    known = [field.name for field in dataclasses.fields(ReadOptions)]
    for name in given:
        if name not in known:
            hint = did_you_mean(name, known) or ";"
            raise ValueError(f"unknown option {show(name)}{hint} known: {', '.join(known)}")
        if name not in allowed:
            takes = ", ".join(map(option_name, allowed)) if allowed else "none"
            raise ValueError(f"format {format_name} takes no option {option_name(name)}; it takes: {takes}")
    try:
        options = ReadOptions(**{name: _read(name, value, option_place(name)) for name, value in given.items()})
    except ValueError as error:
        text = str(error)
        raise error if text.startswith("option ") else ValueError(f"option {text}") from error
    if options.convention is not None:
        parse_convention(options.convention, option_place("convention"))
    return options


def option_place(name: str) -> Place:
    """Where the value of an option stands, for errors."""
    return Place(f"option {option_name(name)}")


def _read(name: str, value: object, place: Place) -> object:
    """A value as `ReadOptions` takes it, of text or a list."""
    if name == "size" and isinstance(value, str):
        try:
            return picture_size(value)
        except ValueError as error:
            raise place.error(str(error)) from error
    if name == "size" and isinstance(value, list):
        return tuple(value)
    return text_number(value, place) if name in _NUMBERS and isinstance(value, str) else value


def image_size(options: ReadOptions, place: Place) -> tuple[int, int]:
    """The size option; ValueError if it is missing."""
    if options.size is None:
        raise place.error(f"the file has no image size: {needed('size')}, such as 480x832 (height x width)")
    return options.size


def lens_matrix(options: ReadOptions, size: tuple[int, int], place: Place) -> Float[Tensor, "3 3"]:
    """Intrinsics (pixels of `size`, float64) from the lens options; ValueError if none of them is given."""
    height, width = size
    if options.focal_px is not None:
        focal_px = options.focal_px
    elif options.fov is not None:
        focal_px = 0.5 * width / math.tan(math.radians(options.fov / 2))
    elif options.focal_mm is not None and options.sensor_mm is not None:
        focal_px = options.focal_mm / options.sensor_mm * width
    elif options.focal_mm is not None:
        needs, too = map(option_name, ("focal_mm", "sensor_mm"))
        raise place.error(f"{needs} needs the sensor's width: give the option {too} too")
    else:
        fov, focal_px, focal_mm, sensor = map(option_name, ("fov", "focal_px", "focal_mm", "sensor_mm"))
        raise place.error(
            f"the file has no intrinsics: one of the options {fov} (horizontal, degrees), {focal_px}, or {focal_mm} "
            f"with {sensor} is needed"
        )
    return torch.tensor([[focal_px, 0, width / 2], [0, focal_px, height / 2], [0, 0, 1]], dtype=torch.float64)


def parse_convention(text: object, place: Place) -> tuple[str, str, str]:
    """(axes, direction, pixels) of three words in any order."""
    words = text.lower().replace(",", " ").split() if isinstance(text, str) and len(text) <= 200 else []
    found = [[word for word in words if word in group] for group in (AXES, DIRECTIONS, PIXELS)]
    if len(words) != 3 or any(len(group) != 1 for group in found):
        raise place.error(
            f"expected three words such as 'opencv c2w raster' (axes {'|'.join(AXES)}, direction "
            f"{'|'.join(DIRECTIONS)}, pixels {'|'.join(PIXELS)}), got {show(text)}"
        )
    return found[0][0], found[1][0], found[2][0]
