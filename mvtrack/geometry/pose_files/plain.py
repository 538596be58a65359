"""Plain arrays, in .json or .npz: poses under `c2w` or `w2c`, intrinsics under `K`, and what their numbers mean.

The file says its `convention` in three words (or the option does): nothing about axes is guessed. This is also the
form of `cameras.json` that `mvtrack reshoot` writes, which has one entry a view. Fields: docs/pose_formats.md.
"""

import io
import json

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from mvtrack.config.pose_files import LENSES, ReadOptions, option_name
from mvtrack.geometry.camera import Camera
from mvtrack.geometry.pose_files.distortion import Distortion
from mvtrack.geometry.pose_files.geometry import axes_to_opencv, c2w_from_w2c, full_poses
from mvtrack.geometry.pose_files.options import image_size, lens_matrix, needed, option_place, parse_convention
from mvtrack.geometry.pose_files.parse import Fields, Place, frame_count, items, name, number, show, side_px
from mvtrack.geometry.pose_files.sequence import CameraSequence, frame_names
from mvtrack.geometry.pose_files.source import ALL_BUT_POINTS, LENS_OPTIONS, PoseFormat, PoseSource

OPTIONS = (*LENS_OPTIONS, "convention", "drop_distortion", "metric")
FIELDS = ("c2w", "w2c", "K", "size", "convention", "unit", "names", "timestamps_s", "fps", "distortion")
_CONVENTION = "opencv c2w raster"  # of the files written here
_CAMERAS_JSON = "OpenCV axes (x right, y down, z forward); camera-to-world 4x4; raster pixels"
_UNITS = {"metres": True, "unknown": False, "unknown scale": False}


def _read_json(source: PoseSource, options: ReadOptions) -> CameraSequence:
    """The arrays of a file, or those of one view (`view`: its name, or its number from 0) of a cameras.json."""
    document = source.document
    if "views" in document:
        document = _view(document, options)
    elif options.view is not None:
        raise source.place.error(f"has no views: the option {option_name('view')} is for a cameras.json with several")
    return _assemble(document, list(document.tree), options, "JSON")


def _read_npz(source: PoseSource, options: ReadOptions) -> CameraSequence:
    fields = {key: source.npz.array(key) for key in source.npz.names if key in FIELDS}
    return _assemble(Fields(fields, source.place), source.npz.names, options, "npz")


def _view(document: Fields, options: ReadOptions) -> Fields:
    """The fields of one view, and those that all views share."""
    at, views = document.at("views"), document.objects("views")
    titles = [view.name("name") if "name" in view else str(i) for i, view in enumerate(views)]
    shown = ", ".join(show(title)[1:-1] for title in titles[:12])
    if options.view is None and len(views) != 1:
        raise at.error(f"holds {len(views)} views: {needed('view')}, one of {shown}")
    matches = [i for i, title in enumerate(titles) if options.view in (None, title)]
    if not matches and options.view.isascii() and options.view.isdigit() and len(options.view) < 6:
        matches = [int(options.view)] if int(options.view) < len(views) else []
    if len(matches) != 1:
        raise at.error(f"holds {len(matches)} views named {show(options.view)}; it has {shown}")
    view = views[matches[0]]
    shared = {key: value for key, value in document.tree.items() if key != "views"}
    return Fields(shared | {key: value for key, value in view.tree.items() if key != "name"}, view.place)


def _assemble(fields: Fields, all_names: list[str], options: ReadOptions, kind: str) -> CameraSequence:
    """Cameras in the project's conventions. Raises ValueError for what is missing or contradicts itself."""
    place, keys = fields.place, [key for key in ("c2w", "w2c") if key in fields]
    if len(keys) != 1:
        raise place.error(f"has {'both' if keys else 'neither'} c2w {'and' if keys else 'nor'} w2c, expected one")
    poses = fields.numbers(keys[0], (None, 4, 4), (None, 3, 4))
    count = frame_count(len(poses), place.field(keys[0]))
    poses = full_poses(poses)
    axes, direction, pixels = _convention(fields.tree.get("convention"), keys[0], options, place)
    size = _size(fields, options)
    K = _intrinsics(fields, options, size, pixels)
    lens = fields.numbers("distortion", (5,), (None, 5)) if "distortion" in fields else None
    times = fields.numbers("timestamps_s", (None,)) if "timestamps_s" in fields else None
    names = items(fields["names"], fields.at("names")) if "names" in fields else None
    for field, value, is_per_frame in (
        ("K", K, K.ndim == 3), ("names", names, True), ("timestamps_s", times, True),
        ("distortion", lens, lens is not None and lens.ndim == 2),
    ):  # fmt: skip
        if value is not None and is_per_frame and len(value) != count:
            raise place.field(field).error(f"has {len(value)} entries, expected {count}, one a frame as in {keys[0]}")
    if "fps" in fields:
        rate = number(fields.numbers("fps", ()).item(), fields.at("fps"), 1e-3, 1e6)
        times = torch.arange(count, dtype=torch.float64) / rate if times is None else times
    c2w = c2w_from_w2c(poses, place) if direction == "w2c" else poses
    unused = [field for field in all_names if field not in FIELDS]
    ignored = f"; fields not used: {', '.join(show(field)[1:-1] for field in unused[:8])}" * bool(unused)
    is_metric = _is_metric(fields.tree.get("unit"), options, place)
    return CameraSequence(
        Camera(axes_to_opencv(c2w, axes), K.expand(count, 3, 3), size, is_metric),
        frame_names(count) if names is None else tuple(
            name(value, fields.at("names").item(i)) for i, value in enumerate(names)
        ),
        times,
        Distortion.unless_zero(lens),
        f"plain {kind}: {axes} axes, {direction}, {pixels} pixels{ignored}",
        axes,
        direction,
    )  # fmt: skip


def _convention(stated: object, key: str, options: ReadOptions, place: Place) -> tuple[str, str, str]:
    if stated is None and options.convention is None:
        raise place.error(
            f"does not say what its numbers mean: the field convention, or {needed('convention')}, such as "
            f"{_CONVENTION!r}"
        )
    stated = _CONVENTION if stated == _CAMERAS_JSON else stated
    in_file = None if stated is None else parse_convention(stated, place.field("convention"))
    option = options.convention
    by_option = None if option is None else parse_convention(option, option_place("convention"))
    if in_file and by_option and in_file != by_option:
        said = f"{option_name('convention')} says {' '.join(by_option)!r}"
        raise place.field("convention").error(f"is {' '.join(in_file)!r}, but {said}")
    convention = in_file or by_option
    if convention[1] != key:
        raise place.field(key).error(f"the field's name says {key}, the convention says {convention[1]}")
    return convention


def _is_metric(unit: object, options: ReadOptions, place: Place) -> bool:
    if unit is None:
        return options.metric
    if not isinstance(unit, str) or unit not in _UNITS:
        raise place.field("unit").error(f"expected {' or '.join(map(repr, _UNITS))}, got {show(unit)}")
    return _UNITS[unit] or options.metric


def _size(fields: Fields, options: ReadOptions) -> tuple[int, int]:
    if "size" not in fields:
        return image_size(options, fields.place)
    at = fields.at("size")
    if isinstance(fields["size"], dict):
        sides = Fields(fields["size"], at)
        size = sides.side_px("height"), sides.side_px("width")
    else:
        size = tuple(side_px(side, at) for side in fields.numbers("size", (2,)).tolist())
    if options.size not in (None, size):
        raise at.error(f"is {size} (H, W), {option_name('size')} says {options.size}")
    return size


def _intrinsics(
    fields: Fields, options: ReadOptions, size: tuple[int, int], pixels: str
) -> Float[Tensor, "*frames 3 3"]:
    if "K" not in fields:
        return lens_matrix(options, size, fields.place)
    given = next((key for key in LENSES if getattr(options, key) is not None), None)
    if given is not None:
        raise fields.at("K").error(
            f"is in the file: the option {option_name(given)} is not needed, and may contradict it"
        )
    K = fields.numbers("K", (3, 3), (None, 3, 3))
    if pixels == "index":  # centre of the first pixel at 0
        K[..., :2, 2] += 0.5
    return K


def _arrays(sequence: CameraSequence) -> dict[str, object]:
    """Everything that a `CameraSequence` holds, as arrays and plain values."""
    camera = sequence.camera
    arrays = {
        "convention": _CONVENTION,
        "unit": sequence.unit,
        "names": list(sequence.names),
        "c2w": camera.c2w.double().numpy(),
        "K": camera.K.double().numpy(),
    }
    if sequence.timestamps_s is not None:
        arrays["timestamps_s"] = sequence.timestamps_s.double().numpy()
    if sequence.distortion is not None:
        arrays["distortion"] = sequence.distortion.coefficients.double().numpy()
    return arrays


def _write_json(sequence: CameraSequence) -> bytes:
    arrays = {
        key: value.tolist() if isinstance(value, np.ndarray) else value for key, value in _arrays(sequence).items()
    }
    height, width = sequence.camera.size
    return json.dumps({"size": {"height": height, "width": width}, **arrays}, indent=1).encode()


def _write_npz(sequence: CameraSequence) -> bytes:
    buffer = io.BytesIO()
    np.savez_compressed(buffer, size=np.array(sequence.camera.size), **_arrays(sequence))
    return buffer.getvalue()


JSON = PoseFormat(
    "json", "plain arrays as JSON, and mvtrack's cameras.json", "stated", "stated", "stated",
    lambda source: bool({"c2w", "w2c"} & set(source.fields)) or isinstance(source.fields.get("views"), list),
    _read_json, _write_json, (*OPTIONS, "view"), ALL_BUT_POINTS,
)  # fmt: skip
NPZ = PoseFormat(
    "npz", "plain arrays as npz", "stated", "stated", "stated",
    lambda source: source.is_npz and (source.npz.has("c2w") or source.npz.has("w2c")),
    _read_npz, _write_npz, OPTIONS, ALL_BUT_POINTS,
)  # fmt: skip
