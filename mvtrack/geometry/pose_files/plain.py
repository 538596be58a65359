"""Plain arrays, in .json or .npz: poses under `c2w` or `w2c`, intrinsics under `K`, and what their numbers mean.

The file says its `convention` in three words (or the option does): nothing about axes is guessed. This is also the
form of `cameras.json` that `mvtrack reshoot` writes.

Fields: c2w or w2c (T, 3 or 4, 4); K (3, 3) or (T, 3, 3), or a lens option; size, height and width, or the option;
convention; unit, "metres" or "unknown"; and, where known, names (T), timestamps_s (T) or fps, distortion (5) or
(T, 5) in OpenCV's order.
"""

from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor

from mvtrack.geometry.camera import Camera
from mvtrack.geometry.pose_files.distortion import Distortion
from mvtrack.geometry.pose_files.geometry import axes_to_opencv, c2w_from_w2c, move_principal_point
from mvtrack.geometry.pose_files.options import ReadOptions, image_size, lens_matrix, parse_convention
from mvtrack.geometry.pose_files.parse import Place, frame_count, show
from mvtrack.geometry.pose_files.sequence import CameraSequence, frame_names

OPTIONS = ("size", "fov", "focal_px", "focal_mm", "sensor_mm", "convention", "metric")
CONVENTION = "opencv c2w raster"  # of the files written here
FIELDS = ("c2w", "w2c", "K", "size", "convention", "unit", "names", "timestamps_s", "fps", "distortion")
_CAMERAS_JSON = "OpenCV axes (x right, y down, z forward); camera-to-world 4x4; raster pixels"
_UNITS = {"metres": True, "unknown": False, "unknown scale": False}


@dataclass(frozen=True)
class PlainArrays:
    """What a plain file holds, before its convention is applied. key: c2w or w2c, the field that had the poses."""

    key: str
    poses: Float[Tensor, "T 4 4"]
    K: Float[Tensor, "*frames 3 3"] | None = None
    size: tuple[int, int] | None = None
    convention: object = None
    unit: object = None
    names: tuple[str, ...] | None = None
    timestamps_s: Float[Tensor, "times"] | None = None
    fps: float | None = None
    distortion: Float[Tensor, "*rows 5"] | None = None
    ignored: list[str] = field(default_factory=list)


def pose_key(fields: object, place: Place) -> str:
    """Which of c2w and w2c the file has."""
    found = [key for key in ("c2w", "w2c") if key in fields]
    if len(found) != 1:
        have = "both c2w and w2c" if found else "neither c2w nor w2c"
        raise place.error(f"has {have}, expected one of them")
    return found[0]


def full_poses(poses: Float[Tensor, "T rows 4"]) -> Float[Tensor, "T 4 4"]:
    """3x4 matrices with their last row; 4x4 ones as they are."""
    if poses.shape[1] == 4:
        return poses
    last = poses.new_tensor([0.0, 0, 0, 1]).expand(len(poses), 1, 4)
    return torch.cat([poses, last], 1)


def assemble(arrays: PlainArrays, options: ReadOptions, place: Place, kind: str) -> CameraSequence:
    """Cameras in the project's conventions. Raises ValueError for what is missing or contradicts itself."""
    count = frame_count(len(arrays.poses), place.field(arrays.key))
    axes, direction, pixels = _convention(arrays, options, place)
    metric = _is_metric(arrays.unit, options, place)
    size = _size(arrays, options, place)
    for name, value in (("K", arrays.K if arrays.K is not None and arrays.K.ndim == 3 else None),
                        ("names", arrays.names), ("timestamps_s", arrays.timestamps_s),
                        ("distortion", arrays.distortion if _per_frame(arrays.distortion) else None)):  # fmt: skip
        if value is not None and len(value) != count:
            raise place.field(name).error(f"has {len(value)} entries, expected {count}, one a frame as in {arrays.key}")
    poses = c2w_from_w2c(arrays.poses, place) if direction == "w2c" else arrays.poses
    times = arrays.timestamps_s
    if times is None and arrays.fps is not None:
        times = torch.arange(count, dtype=torch.float64) / arrays.fps
    ignored = f"; fields not used: {', '.join(show(name)[1:-1] for name in arrays.ignored[:8])}" * bool(arrays.ignored)
    lens = None if arrays.distortion is None else Distortion(arrays.distortion)
    return CameraSequence(
        Camera(axes_to_opencv(poses, axes), _lens(arrays, options, size, pixels, place), size, metric),
        arrays.names or frame_names(count),
        times,
        None if lens is None or lens.is_zero else lens,
        f"plain {kind}: {axes} axes, {direction}, {pixels} pixels{ignored}",
        axes,
        direction,
    )


def _per_frame(value: Tensor | None) -> bool:
    return value is not None and value.ndim == 2


def _convention(arrays: PlainArrays, options: ReadOptions, place: Place) -> tuple[str, str, str]:
    stated = CONVENTION if arrays.convention == _CAMERAS_JSON else arrays.convention
    if stated is None and options.convention is None:
        raise place.error(
            f"does not say what its numbers mean: the field or option convention is needed, such as {CONVENTION!r}"
        )
    in_file = None if stated is None else parse_convention(stated, place.field("convention"))
    told = (
        None
        if options.convention is None
        else parse_convention(options.convention, Place("option").field("convention"))
    )
    if in_file and told and in_file != told:
        raise place.field("convention").error(f"is {' '.join(in_file)!r}, but the option says {' '.join(told)!r}")
    found = in_file or told
    if found[1] != arrays.key:
        raise place.field(arrays.key).error(f"the field's name says {arrays.key}, the convention says {found[1]}")
    return found


def _is_metric(unit: object, options: ReadOptions, place: Place) -> bool:
    if unit is None:
        return options.metric
    if not isinstance(unit, str) or unit not in _UNITS:
        raise place.field("unit").error(f"expected {' or '.join(map(repr, _UNITS))}, got {show(unit)}")
    return _UNITS[unit] or options.metric


def _size(arrays: PlainArrays, options: ReadOptions, place: Place) -> tuple[int, int]:
    if arrays.size is None:
        return image_size(options, place)
    if options.size not in (None, arrays.size):
        raise place.field("size").error(f"is {arrays.size} (H, W), the option says {options.size}")
    return arrays.size


def _lens(
    arrays: PlainArrays, options: ReadOptions, size: tuple[int, int], pixels: str, place: Place
) -> Float[Tensor, "T 3 3"]:
    told = [name for name in ("fov", "focal_px", "focal_mm") if getattr(options, name) is not None]
    count = len(arrays.poses)
    if arrays.K is None:
        return lens_matrix(options, size, place).expand(count, 3, 3)
    if told:
        raise place.field("K").error(f"is in the file: the option {told[0]} is not needed, and may contradict it")
    K = move_principal_point(arrays.K, 0.5) if pixels == "index" else arrays.K
    return K.expand(count, 3, 3)
