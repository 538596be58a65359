"""What a reader may be told about a file that the file itself does not say."""

import dataclasses
import difflib
import math
import re
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from mvtrack.geometry.pose_files.geometry import AXES
from mvtrack.geometry.pose_files.parse import Place, number, show, side_px, text_number

DIRECTIONS = ("c2w", "w2c")
PIXELS = ("raster", "index")
ORDERS = ("name", "file")
QUATERNIONS = ("xyzw", "wxyz")
_NUMBERS = {"fov": (1, 170), "focal_px": (1e-3, 1e9), "focal_mm": (1e-3, 1e9), "sensor_mm": (1e-3, 1e9)}


@dataclass(frozen=True)
class ReadOptions:
    """Options of `read_cameras`; `PoseFormat.options` names those that a format takes. Numbers may be given as text.

    size: image size (H, W) in pixels, or the text "480x832". fov: horizontal field of view, degrees; focal_px: focal
    length in pixels of `size`; focal_mm: focal length in millimetres, on a sensor of width sensor_mm: one of the
    three, with square pixels and a centred principal point. camera: which camera of a file that holds several. view:
    which view of a cameras.json. convention: three words, axes, direction (c2w, w2c) and pixels (raster: centres at
    + 0.5, index: centres at whole numbers), for arrays that do not say. order: of frames whose names are not in
    ascending order in the file: by "name" or as in the "file". quaternion: xyzw, as TUM has it, or wxyz. metric: the
    caller knows that the unit is metres. drop_distortion: take a distorted lens as a pinhole. undo_applied_transform:
    return to the world that transforms.json had before its `applied_transform`.
    """

    size: tuple[int, int] | str | None = None
    fov: float | str | None = None
    focal_px: float | str | None = None
    focal_mm: float | str | None = None
    sensor_mm: float | str | None = None
    camera: str | int | None = None
    view: str | None = None
    convention: str | None = None
    order: str | None = None
    quaternion: str | None = None
    metric: bool = False
    drop_distortion: bool = False
    undo_applied_transform: bool = False

    def __post_init__(self) -> None:
        place = Place("option")
        if self.size is not None:
            object.__setattr__(self, "size", _size(self.size, place.field("size")))
        for name, (low, high) in _NUMBERS.items():
            value, at = getattr(self, name), place.field(name)
            if isinstance(value, str):
                value = text_number(value, at)
            if value is not None:
                object.__setattr__(self, name, number(value, at, low, high))
        given = [name for name in ("fov", "focal_px", "focal_mm") if getattr(self, name) is not None]
        if len(given) > 1:
            raise place.error(f"{' and '.join(given)} both give the focal length: pass one of them")
        if self.sensor_mm is not None and self.focal_mm is None:
            raise place.field("sensor_mm").error("goes with focal_mm, which is missing")
        if isinstance(self.camera, bool) or not isinstance(self.camera, str | int | None):
            raise place.field("camera").error(f"expected a camera's name or number, got {show(self.camera)}")
        if not isinstance(self.view, str | None):
            raise place.field("view").error(f"expected a view's name, got {show(self.view)}")
        if self.order not in (None, *ORDERS):
            raise place.field("order").error(f"expected {' or '.join(ORDERS)}, got {show(self.order)}")
        if self.quaternion not in (None, *QUATERNIONS):
            raise place.field("quaternion").error(f"expected {' or '.join(QUATERNIONS)}, got {show(self.quaternion)}")
        for name in ("metric", "drop_distortion", "undo_applied_transform"):
            if not isinstance(getattr(self, name), bool):
                raise place.field(name).error(f"expected True or False, got {show(getattr(self, name))}")
        if self.convention is not None:
            parse_convention(self.convention, place.field("convention"))


def _size(value: object, place: Place) -> tuple[int, int]:
    if isinstance(value, str):
        match = re.fullmatch(r"([0-9]{1,6})x([0-9]{1,6})", value)
        value = [int(side) for side in match.groups()] if match else value
    if not isinstance(value, tuple | list) or len(value) != 2:
        raise place.error(f"expected height and width in pixels, such as 480x832, got {show(value)}")
    return side_px(value[0], place), side_px(value[1], place)


def make_options(given: dict, allowed: tuple[str, ...], format_name: str) -> ReadOptions:
    """Options by name; ValueError for a name that does not exist or that this format does not take."""
    known = [field.name for field in dataclasses.fields(ReadOptions)]
    for name in given:
        if name not in known:
            close = difflib.get_close_matches(name, known, n=1)
            hint = f"; did you mean {close[0]!r}?" if close else ";"
            raise ValueError(f"unknown option {show(name)}{hint} known: {', '.join(known)}")
        if name not in allowed:
            takes = ", ".join(allowed) if allowed else "none"
            raise ValueError(f"format {format_name} takes no option {name!r}; it takes: {takes}")
    return ReadOptions(**given)


def image_size(options: ReadOptions, place: Place) -> tuple[int, int]:
    """The size option; ValueError if it is missing."""
    if options.size is None:
        raise place.error("the file has no image size: the option size is needed, such as 480x832 (height x width)")
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
        raise place.error("focal_mm needs the sensor's width: give the option sensor_mm too")
    else:
        raise place.error(
            "the file has no intrinsics: one of the options fov (horizontal, degrees), focal_px, or focal_mm with "
            "sensor_mm is needed"
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
