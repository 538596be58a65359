"""nerfstudio / instant-ngp `transforms.json`: OpenGL camera-to-world matrices, intrinsics for all frames or each.

Format: docs.nerf.studio/quickstart/data_conventions.html. Pixels are raster (a ray through pixel (0, 0) passes
through its centre at +0.5). What the older NeRF and instant-ngp files leave out has a defined meaning that is
followed here: `fl_y` is `fl_x`, `cx, cy` is the picture's middle, and `camera_angle_x` is the horizontal field of view.

`applied_transform` (and `applied_scale`) says how the writer moved the world *before* it wrote the poses. The poses
are in the moved world and stay there; `undo_applied_transform` returns to the original one.
"""

import json
import math

import torch
from jaxtyping import Float
from torch import Tensor

from mvtrack.config.pose_files import ReadOptions, option_name
from mvtrack.geometry.camera import Camera
from mvtrack.geometry.pose_files.distortion import Distortion
from mvtrack.geometry.pose_files.geometry import axes_from_opencv, axes_to_opencv, full_poses, pinhole_matrix
from mvtrack.geometry.pose_files.options import needed
from mvtrack.geometry.pose_files.parse import Fields, Place, number, positive, show, side_px
from mvtrack.geometry.pose_files.sequence import CameraSequence, in_order, refuse_skew
from mvtrack.geometry.pose_files.source import ALL_BUT_TIMES, PoseFormat, PoseSource

FILE_NAME = "transforms.json"

_PERSPECTIVE = ("OPENCV", "PINHOLE", "SIMPLE_PINHOLE", "SIMPLE_RADIAL", "RADIAL")
_LENS = ("k1", "k2", "p1", "p2", "k3")
_INTRINSICS = ("w", "h", "fl_x", "fl_y", "cx", "cy", "camera_angle_x", "camera_angle_y", "k4", *_LENS)


def read(source: PoseSource, options: ReadOptions) -> CameraSequence:
    """All frames, of the file or of the transforms.json in a folder.

    `size` is needed only where the file has no w and h, `order` only where the frames are not in order of their names.
    """
    source = PoseSource(source.path / FILE_NAME) if source.is_folder else source
    document = source.document
    _refuse_other_lenses(document)
    whole = _numbers(document)
    poses, lenses, names, sizes, before = [], [], [], set(), None
    for frame in document.objects("frames"):
        _refuse_other_lenses(frame)
        poses.append(_pose(frame, "transform_matrix"))
        names.append(frame.name("file_path"))
        own = _numbers(frame)
        if own != before:
            values = _merged(whole, own, frame.place)
            size = _size(values, options, frame.place)
            lens, before = _lens(values, size, frame.place), own
        sizes.add(size)
        if len(sizes) > 1:
            shown = f"{size[1]}x{size[0]} (w x h)"
            raise frame.place.error(f"the image size changes to {shown}, expected one size for all frames")
        lenses.append(lens)
    lens = torch.tensor(lenses, dtype=torch.float64)
    moved, scale, note = _applied_transform(document, options.undo_applied_transform)
    c2w = axes_to_opencv(torch.stack(poses), "opengl")
    c2w[:, :3, 3] /= scale
    sequence = CameraSequence(
        Camera(torch.linalg.solve(moved, c2w), pinhole_matrix(*lens[:, :4].unbind(-1)), sizes.pop(), options.metric),
        tuple(names),
        distortion=Distortion.unless_zero(lens[:, 4:]),
        convention=f"nerfstudio transforms.json: OpenGL axes, camera-to-world, raster pixels{note}",
        file_axes="opengl",
    )
    return in_order(sequence, options.order, document.at("frames"))


def _refuse_other_lenses(tree: Fields) -> None:
    model = tree.tree.get("camera_model", "OPENCV")
    if model not in _PERSPECTIVE:
        raise tree.at("camera_model").error(f"{show(model)} is not supported, expected {' | '.join(_PERSPECTIVE)}")
    if tree.tree.get("is_fisheye"):
        raise tree.at("is_fisheye").error("fisheye lenses are not supported, expected a perspective lens")


def _numbers(tree: Fields) -> dict[str, float]:
    """The intrinsics of a file or of a frame."""
    return {key: tree.number(key) for key in _INTRINSICS if key in tree}


def _merged(whole: dict[str, float], own: dict[str, float], place: Place) -> dict[str, float]:
    """Intrinsics of the file and of a frame together. Two different values for one field are an error."""
    for key, value in own.items():
        if whole.get(key, value) != value:
            raise place.field(key).error(f"is {value:g} here and {whole[key]:g} for the whole file")
    return {**whole, **own}


def _size(values: dict[str, float], options: ReadOptions, place: Place) -> tuple[int, int]:
    if ("w" in values) != ("h" in values):
        raise place.error("has only one of w and h, expected both")
    if "w" not in values:
        if options.size is None:
            raise place.error(f"has no image size (w, h): {needed('size')}, such as 480x832 (height x width)")
        return options.size
    size = side_px(values["h"], place.field("h")), side_px(values["w"], place.field("w"))
    if options.size is not None and options.size != size:
        raise place.error(
            f"has images of {size[0]}x{size[1]} (H x W), the option {option_name('size')} says {options.size}"
        )
    return size


def _lens(values: dict[str, float], size: tuple[int, int], place: Place) -> list[float]:
    """fx, fy, cx, cy, k1, k2, p1, p2, k3 of one frame."""
    height, width = size
    fx = _focal(values, "x", width, place)
    fy = _focal(values, "y", height, place)
    if fx is None:
        raise place.error("has no focal length: expected fl_x or camera_angle_x")
    if ("cx" in values) != ("cy" in values):
        raise place.error("has only one of cx and cy, expected both or none")
    if values.get("k4", 0) != 0:
        raise place.field("k4").error(f"is {values['k4']:g}: a fourth radial coefficient is not supported")
    centre = [values.get("cx", width / 2), values.get("cy", height / 2)]
    return [fx, fx if fy is None else fy, *centre, *(values.get(key, 0.0) for key in _LENS)]


def _focal(values: dict[str, float], axis: str, side: int, place: Place) -> float | None:
    """Focal length in pixels from fl_x or camera_angle_x (or y); both must agree to a thousandth."""
    key, angle_key = f"fl_{axis}", f"camera_angle_{axis}"
    focal = positive(values[key], place.field(key)) if key in values else None
    if angle_key not in values:
        return focal
    angle = number(values[angle_key], place.field(angle_key), 1e-4, 3.1)
    by_angle = side / 2 / math.tan(angle / 2)
    if focal is not None and abs(by_angle / focal - 1) > 1e-3:
        raise place.field(angle_key).error(f"means a focal length of {by_angle:.6g} px, but {key} is {focal:.6g}")
    return by_angle if focal is None else focal


def _pose(tree: Fields, key: str) -> Float[Tensor, "4 4"]:
    pose = tree.numbers(key, (4, 4), (3, 4))
    if len(pose) == 4 and pose[3].tolist() != [0, 0, 0, 1]:
        at = tree.at(key).item(3)
        raise at.error(f"is {pose[3].tolist()}, expected [0, 0, 0, 1] (the translation is the last column)")
    return full_poses(pose[None])[0]


def _applied_transform(document: Fields, undo: bool) -> tuple[Float[Tensor, "4 4"], float, str]:
    """The world's movement and scale to undo (none where they are kept), and a note for people."""
    still, transform, scale = torch.eye(4, dtype=torch.float64), torch.eye(4, dtype=torch.float64), 1.0
    if "applied_transform" not in document and "applied_scale" not in document:
        if undo:
            raise document.place.error("has no applied_transform to undo")
        return still, scale, ""
    if "applied_transform" in document:
        transform = _pose(document, "applied_transform")
        rotation = transform[:3, :3]
        error = float((rotation @ rotation.mT - still[:3, :3]).abs().max())
        if error > 1e-3 or torch.linalg.det(rotation) < 0:
            raise document.at("applied_transform").error(
                f"is no rigid movement (its 3x3 part differs from a rotation by {error:.3g})"
            )
    if "applied_scale" in document:
        scale = document.positive("applied_scale")
    if undo:
        return transform, scale, ", applied_transform undone"
    return still, 1.0, ", in the world after applied_transform"


def write(sequence: CameraSequence) -> bytes:
    """The file's bytes: intrinsics once where all frames share them, in every frame otherwise. Times are left out.

    Raises ValueError for intrinsics with skew, which the format cannot hold.
    """
    camera = sequence.camera
    K = camera.K.double()
    refuse_skew(sequence, "transforms.json")
    columns = {"fl_x": K[:, 0, 0], "fl_y": K[:, 1, 1], "cx": K[:, 0, 2], "cy": K[:, 1, 2]}
    if sequence.distortion is not None:
        coefficients = sequence.distortion.per_frame(sequence.num_frames).double()
        columns |= {key: coefficients[:, i] for i, key in enumerate(_LENS)}
    document = {"camera_model": "OPENCV", "w": camera.size[1], "h": camera.size[0]}
    shared = {key: column[0].item() for key, column in columns.items() if (column == column[0]).all()}
    frames = []
    for index, c2w in enumerate(axes_from_opencv(camera.c2w.double(), "opengl").tolist()):
        own = {key: column[index].item() for key, column in columns.items() if key not in shared}
        frames.append({"file_path": sequence.names[index], **own, "transform_matrix": c2w})
    return json.dumps({**document, **shared, "frames": frames}, indent=1).encode()


def _detect(source: PoseSource) -> bool:
    if source.is_folder:
        return (source.path / FILE_NAME).exists()
    frames = source.fields.get("frames")
    return isinstance(frames, list) and bool(frames) and isinstance(frames[0], dict) and "transform_matrix" in frames[0]


TRANSFORMS = PoseFormat(
    "nerfstudio", "nerfstudio and instant-ngp transforms.json", "opengl", "c2w", "unknown", _detect, read, write,
    ("size", "order", "drop_distortion", "metric", "undo_applied_transform"), ALL_BUT_TIMES,
)  # fmt: skip
