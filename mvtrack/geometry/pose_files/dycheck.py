"""dycheck / Nerfies camera JSON: one file a frame, OpenCV axes, world-to-camera rotation and camera position.

A folder holds `{camera}_{frame:05d}.json`; a single file is a sequence of one frame. Pixels are raster; fy is
focal_length * pixel_aspect_ratio; distortion is Brown's. The unit of the world is the dataset's own.
"""

import json
from collections.abc import Callable
from pathlib import Path

import torch

from mvtrack.config.pose_files import ReadOptions
from mvtrack.geometry.camera import Camera
from mvtrack.geometry.pose_files.distortion import Distortion
from mvtrack.geometry.pose_files.geometry import poses_of
from mvtrack.geometry.pose_files.options import needed
from mvtrack.geometry.pose_files.parse import (
    Fields,
    Place,
    check_name,
    frame_count,
    natural_order,
    place_of,
    read_json,
    show,
    side_px,
)
from mvtrack.geometry.pose_files.sequence import CameraSequence, common_size, require_ascending_names
from mvtrack.geometry.pose_files.source import ALL_BUT_TIMES, PoseFormat, PoseSource

# Files that dycheck keeps beside cameras; everything else in a folder of cameras must be a camera.
_SIDE_FILES = {
    "dataset.json", "extra.json", "metadata.json", "scene.json", "splits_train.json", "splits_val.json",
}  # fmt: skip
_MAX_PART = 200  # bytes of a frame's name that becomes a file name
_MAX_FILES = 10_000
_MAX_BYTES = 64 << 10  # of one camera: real ones have one kilobyte


def camera_files(folder: Path) -> list[Path]:
    """JSON files of a folder that are to be cameras, in natural order of their names."""
    try:
        files = [path for path in folder.iterdir() if path.suffix == ".json" and path.name not in _SIDE_FILES]
    except OSError as error:
        raise place_of(folder).error(f"cannot be read: {error.strerror or error}") from None
    if len(files) > _MAX_FILES:
        raise place_of(folder).error(f"holds {len(files)} files, expected at most {_MAX_FILES} cameras")
    return [files[i] for i in natural_order([path.stem for path in files])]


def read(source: PoseSource, options: ReadOptions) -> CameraSequence:
    """A file, or the frames of one camera of a folder (`camera`: what stands before the first underscore)."""
    path, place = source.path, source.place
    files = _of_camera(camera_files(path), options.camera, place) if source.is_folder else [path]
    frame_count(len(files), place)
    for file in files:
        check_name(file.stem, place_of(file))
    trees = [Fields(read_json(file, _MAX_BYTES), place_of(file)) for file in files]
    size = common_size([_size(tree) for tree in trees], place)
    rotations = torch.stack([tree.numbers("orientation", (3, 3)) for tree in trees])
    positions = torch.stack([tree.numbers("position", (3,)) for tree in trees])
    lens = torch.tensor([_coefficients(tree) for tree in trees], dtype=torch.float64)
    return CameraSequence(
        Camera(
            poses_of(rotations.mT, positions),
            torch.tensor([_intrinsics(tree) for tree in trees], dtype=torch.float64), size, options.metric,
        ),
        tuple(file.stem for file in files),
        distortion=Distortion.unless_zero(lens),
        convention="dycheck JSON: OpenCV axes, world-to-camera rotation with the camera's position, raster pixels",
        file_direction="w2c rotation",
    )  # fmt: skip


def _size(tree: Fields) -> tuple[int, int]:
    width, height = tree.numbers("image_size", (2,)).tolist()
    return side_px(height, tree.at("image_size")), side_px(width, tree.at("image_size"))


def _of_camera(files: list[Path], camera: str | int | None, place: Place) -> list[Path]:
    """The files of the camera that was asked for."""
    by_camera: dict[str, list[Path]] = {}
    for file in files:
        by_camera.setdefault(_camera_of(file.stem), []).append(file)
    shown = ", ".join(show(key)[1:-1] for key in list(by_camera)[:12])
    if camera is None and len(by_camera) > 1:
        raise place.error(f"holds {len(by_camera)} cameras: {needed('camera')}, one of {shown}")
    if camera is not None and str(camera) not in by_camera:
        raise place.error(f"has no camera {show(str(camera))}; it has {shown or 'none'}")
    return files if camera is None else by_camera[str(camera)]


def _camera_of(stem: str) -> str:
    return stem.split("_")[0] if "_" in stem else ""


def _intrinsics(tree: Fields) -> list[list[float]]:
    focal = tree.positive("focal_length")
    cx, cy = tree.numbers("principal_point", (2,)).tolist()
    return [[focal, tree.number("skew"), cx], [0.0, focal * tree.positive("pixel_aspect_ratio"), cy], [0.0, 0.0, 1.0]]


def _coefficients(tree: Fields) -> list[float]:
    """k1, k2, p1, p2, k3; a file without distortion has none."""
    tree = Fields({"radial_distortion": [0, 0, 0], "tangential_distortion": [0, 0], **tree.tree}, tree.place)
    k1, k2, k3 = tree.numbers("radial_distortion", (3,)).tolist()
    return [k1, k2, *tree.numbers("tangential_distortion", (2,)).tolist(), k3]


def write(sequence: CameraSequence) -> dict[str, bytes]:
    """One file a frame, by file name: the frame's name, which must be one. Times are left out.

    Frame names 0, 1, … of formats without names become one camera, number 0: 0_00000.json, 0_00001.json, …
    Raises ValueError for names that are no file names, that occur twice, or that would be read in another order.
    """
    camera = sequence.camera
    names = list(sequence.names)
    if names == [str(index) for index in range(len(names))]:
        names = [f"0_{index:05d}" for index in range(len(names))]
    _check_file_names(names)
    lens = torch.zeros(len(names), 5) if sequence.distortion is None else sequence.distortion.per_frame(len(names))
    K, c2w, lens = camera.K.double(), camera.c2w.double(), lens.double().tolist()
    rotation, position, K = c2w[:, :3, :3].mT.tolist(), c2w[:, :3, 3].tolist(), K.tolist()
    files = {}
    for index, name in enumerate(names):
        (fx, skew, cx), (_, fy, cy), _ = K[index]
        k1, k2, p1, p2, k3 = lens[index]
        document = {
            "orientation": rotation[index],
            "position": position[index],
            "focal_length": fx,
            "principal_point": [cx, cy],
            "skew": skew,
            "pixel_aspect_ratio": fy / fx,
            "radial_distortion": [k1, k2, k3],
            "tangential_distortion": [p1, p2],
            "image_size": [camera.size[1], camera.size[0]],
        }
        files[f"{name}.json"] = json.dumps(document, indent=1).encode()
    return files


def _check_file_names(names: list[str]) -> None:
    for index, name in enumerate(names):
        odd = set(name) & set('/\\:*?"<>|')
        if odd or name.startswith(".") or len(name.encode()) > _MAX_PART or f"{name}.json" in _SIDE_FILES:
            raise ValueError(f"names[{index}] is {show(name)}: dycheck folders need frame names that can be file names")
    require_ascending_names(names, "dycheck folders")
    if len({_camera_of(name) for name in names}) > 1:
        raise ValueError("dycheck folders of one sequence need names of one camera ({camera}_{frame})")


def detect_by(keys: tuple[str, ...]) -> Callable[[PoseSource], bool]:
    """Whether a file, or the first of a folder of one file a frame, has these fields."""

    def detect(source: PoseSource) -> bool:
        files = camera_files(source.path) if source.is_folder else []
        first = PoseSource(files[0]) if files else source
        return first.fields.keys() >= {*keys}

    return detect


DYCHECK = PoseFormat(
    "dycheck", "dycheck / iPhone camera JSON (folder, one file a frame)", "opencv", "w2c", "unknown",
    detect_by(("orientation", "position")), read, write, ("camera", "drop_distortion", "metric"), ALL_BUT_TIMES, True,
)  # fmt: skip
