"""COLMAP models, text or binary: a folder with `cameras`, `images` and `points3D`.

Format: colmap.github.io/format.html. Poses are world-to-camera, quaternion (w, x, y, z) and translation, OpenCV axes;
the centre of the first pixel is at (0.5, 0.5): raster. The scale is unknown. Frames are in natural order of the images'
names: COLMAP numbers images as it likes.

Models are written by pycolmap, which also measures lenses that are not Brown's. They are read here (colmap_files.py):
pycolmap reads damaged files without a word (NaN, wrong counts, half a model), and one wrong count of points hangs it.
"""

import tempfile
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from mvtrack.config.pose_files import ReadOptions, option_name
from mvtrack.geometry.camera import Camera
from mvtrack.geometry.pose_files.colmap_files import (
    BINARY_FILES,
    TEXT_FILES,
    ColmapCamera,
    ColmapImage,
    read_binary,
    read_text_model,
)
from mvtrack.geometry.pose_files.distortion import Distortion
from mvtrack.geometry.pose_files.geometry import c2w_from_w2c, pinhole_matrix, poses_of, w2c_from_c2w
from mvtrack.geometry.pose_files.options import needed
from mvtrack.geometry.pose_files.parse import Place, frame_count, natural_order, place_of, positive, show
from mvtrack.geometry.pose_files.sequence import CameraSequence, refuse_skew, require_ascending_names
from mvtrack.geometry.pose_files.source import ALL_BUT_TIMES, PoseFormat, PoseSource
from mvtrack.geometry.pose_files.tum import check_quaternion
from mvtrack.geometry.rotation import matrix_from_quaternion, quaternion_from_matrix

_BROWN = ("SIMPLE_PINHOLE", "PINHOLE", "SIMPLE_RADIAL", "RADIAL", "OPENCV", "FULL_OPENCV")
_LENS = ("k1", "k2", "p1", "p2", "k3")


def _read(source: PoseSource, options: ReadOptions, kind: str) -> CameraSequence:
    """A model's folder, or one of its files; of one camera with `camera`, its number."""
    folder = source.path if source.is_folder else source.path.parent
    place = place_of(folder)
    cameras, images, points = read_binary(folder) if kind == "binary" else read_text_model(folder)
    images = _of_camera(images, options.camera, place)
    images = [images[i] for i in natural_order([image.name for image in images])]
    for before, image in zip(images, images[1:], strict=False):
        if before.name == image.name:
            raise place.error(f"has two images named {show(image.name)}")
    for image in images:
        check_quaternion(image.pose[:4], image.place)
        if image.camera_id not in cameras:
            raise place.error(f"image {show(image.name)} has camera {image.camera_id}, which is not in cameras")
    used = {image.camera_id: cameras[image.camera_id] for image in images}
    sizes = {camera.size for camera in used.values()}
    if len(sizes) > 1:
        shown = ", ".join(f"{i}: {c.size[1]}x{c.size[0]}" for i, c in list(used.items())[:8])
        raise place.error(f"has cameras of different image sizes ({shown}): {needed('camera')}, a number")
    lenses = {number: _lens(camera, options) for number, camera in used.items()}
    lens = torch.tensor([lenses[image.camera_id][0] for image in images], dtype=torch.float64)
    wxyz_t = torch.tensor([image.pose for image in images], dtype=torch.float64)
    c2w = c2w_from_w2c(poses_of(matrix_from_quaternion(wxyz_t[:, :4]), wxyz_t[:, 4:]), place)
    return CameraSequence(
        Camera(c2w, pinhole_matrix(*lens[:, :4].unbind(-1)), sizes.pop(), options.metric),
        tuple(image.name for image in images),
        distortion=Distortion.unless_zero(lens[:, 4:]),
        convention=f"COLMAP {kind} model: OpenCV axes, world-to-camera, raster pixels",
        file_direction="w2c",
        points=None if points is None else points.xyz,
        point_colors=None if points is None else points.rgb,
        notes=(*(note for _, note in lenses.values() if note), *([points.note] if points and points.note else [])),
    )


def _of_camera(images: list[ColmapImage], camera: str | int | None, place: Place) -> list[ColmapImage]:
    if not images:
        raise place.error("has 0 images with a pose, expected 1 or more")
    frame_count(len(images), place)
    if camera is None:
        return images
    chosen = [image for image in images if str(image.camera_id) == str(camera)]
    if not chosen:
        ids = sorted({image.camera_id for image in images})
        raise place.error(f"has no images of camera {show(camera)}; it has cameras {', '.join(map(str, ids[:12]))}")
    return chosen


def _lens(camera: ColmapCamera, options: ReadOptions) -> tuple[list[float], str]:
    """fx, fy, cx, cy, k1, k2, p1, p2, k3 of a camera, and a note where its distortion was left out.

    Raises ValueError for lenses without a focal length, and for those that are not Brown's unless the options say that
    distortion is to be dropped.
    """
    values, place = camera.parameters, camera.place
    focal = [values.get(key, values.get("f")) for key in ("fx", "fy")]
    if None in focal:
        raise place.error(f"the camera model {camera.model} has no pinhole, expected one of {', '.join(_BROWN)}")
    for key, value in zip(("fx", "fy"), focal, strict=True):
        positive(value, place.field(key))
    pinhole = [*focal, values["cx"], values["cy"]]
    if camera.model in _BROWN and not any(values.get(key) for key in ("k4", "k5", "k6")):
        return [*pinhole, values.get("k", values.get("k1", 0.0)), *(values.get(key, 0.0) for key in _LENS[1:])], ""
    moved = f"camera model {camera.model}{_displacement(camera)}"
    if not options.drop_distortion:
        raise place.error(
            f"the {moved} is not supported, expected one of {', '.join(_BROWN)} (without k4 to k6): undistort the "
            f"pictures (colmap image_undistorter), or give the option {option_name('drop_distortion')}"
        )
    return [*pinhole, *[0.0] * len(_LENS)], f"the {moved} is taken as a pinhole"


def _displacement(camera: ColmapCamera) -> str:
    """How far the lens moves the picture's corners from where a pinhole would show them, in words; needs pycolmap."""
    try:
        import pycolmap
    except ImportError:
        return ""
    (height, width), parameters = camera.size, list(camera.parameters.values())
    lens = pycolmap.Camera(model=camera.model, width=width, height=height, params=parameters)
    corners = np.array([[0, 0], [width, 0], [0, height], [width, height]], dtype=np.float64)
    rays = [lens.cam_from_img(corner) for corner in corners]  # None where there is no such ray
    if any(ray is None for ray in rays):
        return ""
    ideal = np.array(rays)[:, :2] * [lens.focal_length_x, lens.focal_length_y]
    distance = np.linalg.norm(ideal + [lens.principal_point_x, lens.principal_point_y] - corners, axis=1).max()
    return f", which moves the corners by {distance:.1f} px," if np.isfinite(distance) else ""


def _write(sequence: CameraSequence, kind: str) -> dict[str, bytes]:
    """The folder's files, by name, with one camera for each distinct lens. Times have no place in this format.

    Raises ValueError for skew, for names that are read in another order or (in text) cut, and without pycolmap.
    """
    try:
        import pycolmap
    except ImportError as error:
        raise ValueError("COLMAP models are written by pycolmap: pip install pycolmap") from error
    refuse_skew(sequence, "COLMAP models")
    require_ascending_names(sequence.names, "COLMAP models")
    odd = next((name for name in sequence.names if kind == "text" and name.split() != [name]), None)
    if odd is not None:
        raise ValueError(f"COLMAP's text form cannot hold the name {show(odd)}, which has white space")
    camera, model, numbers = sequence.camera, pycolmap.Reconstruction(), {}
    w2c = w2c_from_c2w(camera.c2w.double())
    xyzw = quaternion_from_matrix(w2c[:, :3, :3])[:, [1, 2, 3, 0]]
    # From the rotation that is written: one that was rounded in its file projects every point as the file does.
    offset = -(matrix_from_quaternion(xyzw[:, [3, 0, 1, 2]]) @ camera.c2w[:, :3, 3:].double())[..., 0]
    for index, (name, row) in enumerate(zip(sequence.names, _lens_rows(sequence), strict=True), 1):
        if row not in numbers:
            numbers[row] = len(numbers) + 1
            model.add_camera_with_trivial_rig(_camera(pycolmap, row, camera.size, numbers[row]))
        pose = pycolmap.Rigid3d(pycolmap.Rotation3d(xyzw[index - 1].numpy()), offset[index - 1].numpy())
        image = pycolmap.Image(name=name, camera_id=numbers[row], image_id=index)
        model.add_image_with_trivial_frame(image, pose)
    if sequence.points is not None:
        colors = sequence.point_colors
        colors = torch.zeros(sequence.points.shape, dtype=torch.uint8) if colors is None else colors
        for point, color in zip(sequence.points.double().numpy(), colors.numpy(), strict=True):
            model.add_point3D(point, pycolmap.Track(), color)
    with tempfile.TemporaryDirectory() as folder:
        (model.write_text if kind == "text" else model.write_binary)(folder)
        return {file.name: file.read_bytes() for file in sorted(Path(folder).iterdir())}


def _lens_rows(sequence: CameraSequence) -> list[tuple[float, ...]]:
    """fx, fy, cx, cy, k1, k2, p1, p2, k3 of every frame."""
    K = sequence.camera.K.double()
    lens: Float[Tensor, "T 4"] = torch.stack([K[:, 0, 0], K[:, 1, 1], K[:, 0, 2], K[:, 1, 2]], -1)
    none = torch.zeros(len(K), len(_LENS), dtype=torch.float64)
    distortion = none if sequence.distortion is None else sequence.distortion.per_frame(len(K)).double()
    return [tuple(row) for row in torch.cat([lens, distortion], -1).tolist()]


def _camera(pycolmap, row: tuple[float, ...], size: tuple[int, int], number: int):
    if not any(row[4:]):
        model, parameters = "PINHOLE", row[:4]
    elif row[8] == 0:
        model, parameters = "OPENCV", row[:8]
    else:
        model, parameters = "FULL_OPENCV", (*row, 0.0, 0.0, 0.0)
    return pycolmap.Camera(model=model, width=size[1], height=size[0], params=list(parameters), camera_id=number)


def _format(kind: str, title: str, files: tuple[str, str, str]) -> PoseFormat:
    def detect(source: PoseSource) -> bool:
        if source.is_folder:
            return all((source.path / name).exists() for name in files[:2])
        return source.path.name in files

    return PoseFormat(
        f"colmap_{kind}", title, "opencv", "w2c", "unknown", detect,
        lambda source, options: _read(source, options, kind), lambda sequence: _write(sequence, kind),
        ("camera", "drop_distortion", "metric"), (*ALL_BUT_TIMES, "points"), True,
    )  # fmt: skip


TEXT = _format("text", "COLMAP model as text (folder)", TEXT_FILES)
BINARY = _format("binary", "COLMAP model, binary (folder)", BINARY_FILES)
