"""What a reader of pose files may be told about a file that the file itself does not say."""

from dataclasses import asdict
from typing import Annotated, Literal

from mvtrack.config.checked import Count, Range, config
from mvtrack.config.command_line import option, typed
from mvtrack.config.sizes import picture_size

QuaternionOrder = Literal["xyzw", "wxyz"]
FocalLength = Annotated[float, Range(1e-3, 1e9)]
LENSES = ("fov", "focal_px", "focal_mm")  # of which one is given


@config
class ReadOptions:
    """Options of `read_cameras`; `PoseFormat.options` names those that a format takes.

    The lens is one of fov, focal_px and focal_mm on a sensor of width sensor_mm, with square pixels and a centred
    principal point. convention: three words, axes, direction (c2w, w2c) and pixels (raster: centres at + 0.5, index:
    centres at whole numbers), for arrays that do not say. order: by name, or as in the file.
    """

    size: tuple[Count, Count] | None = option(
        None, "image size, height x width, where the file has none", metavar="HxW", parse=picture_size
    )
    fov: Annotated[float, Range(1, 170)] | None = option(
        None, "horizontal field of view, where the file has no intrinsics", metavar="DEG"
    )
    focal_px: FocalLength | None = option(None, "or the focal length in pixels", metavar="PX")
    focal_mm: FocalLength | None = option(None, "or the focal length in millimetres", metavar="MM")
    sensor_mm: FocalLength | None = option(None, "width of the sensor that the focal length is for", metavar="MM")
    camera: str | int | None = option(None, "which camera of a file that holds several", metavar="NAME")
    view: str | None = option(None, "which view of a cameras.json", metavar="NAME")
    convention: str | None = option(
        None, "of plain arrays that do not say: axes, c2w or w2c, raster or index", metavar="WORDS"
    )
    order: Literal["name", "file"] | None = option(None, "of frames whose names do not ascend")
    quaternion: QuaternionOrder | None = option(
        None, "where w stands in a trajectory's quaternions, where that is not clear"
    )
    metric: bool = option(False, "the unit is metres, though the file does not say so")
    drop_distortion: bool = option(
        False, "take a distorted lens as a pinhole: pictures are off by the pixels that are said"
    )
    undo_applied_transform: bool = option(False, "return to the world before transforms.json's applied_transform")

    def __post_init__(self) -> None:
        lenses = [option_name(name) for name in LENSES if getattr(self, name) is not None]
        if len(lenses) > 1:
            raise ValueError(f"{' and '.join(lenses)} both give the focal length: pass one of them")
        if self.sensor_mm is not None and self.focal_mm is None:
            raise ValueError(f"{option_name('sensor_mm')} goes with {option_name('focal_mm')}, which is missing")


def option_name(name: str) -> str:
    """An option for messages, as it is typed: --pose-size on the command line, size in Python."""
    return typed(ReadOptions, name, "`mvtrack cameras convert`")


@config
class PoseFileOptions(ReadOptions):
    """The same with the format, as commands take it."""

    format: str | None = option(None, "instead of finding it, see `mvtrack cameras formats`", metavar="NAME")

    @property
    def given(self) -> dict:
        """Keyword arguments for `read_cameras`: the options that are not their defaults."""
        return {name: value for name, value in asdict(self).items() if value not in (None, False)}
