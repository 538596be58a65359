"""MOVi-A to -F, Kubric's videos as TensorFlow Datasets store them, read without it: one camera, exact depth, masks and
point tracks.

movi_e/256x256/1.0.0/movi_e-train.tfrecord-00000-of-01024 …, features.json
"""

from functools import partial
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, Float, UInt8
from torch import Tensor

from mvtrack.config.datasets import DatasetOptions
from mvtrack.data.public.encoded_images import EncodedImages
from mvtrack.data.public.files import decode_colours, decode_map, same_size, z_from_distance
from mvtrack.data.public.kubric import UNIT_LENGTH, posed
from mvtrack.data.public.layout import (
    DatasetLayout,
    MultiViewScene,
    PointTracks,
    SceneFiles,
    SceneView,
    in_order,
    scene_tracks,
)
from mvtrack.data.public.movi_tracks import RigidScene, track_points
from mvtrack.data.public.tfrecord import Values, read_example, record_offsets
from mvtrack.geometry.camera import Camera
from mvtrack.geometry.pose_files.parse import Place, numbers
from mvtrack.geometry.rotation import matrix_from_quaternion

FPS = 12.0
_POSE = {"positions": 3, "quaternions": 4}  # of objects
_FILES = "movi_*.tfrecord-*"


class Movi(DatasetLayout):
    name = "movi"
    title = "MOVi (Kubric, TensorFlow Datasets)"
    domain = "rendered"
    bases = ("*/*/*", "*/*", "*", ".")
    signs = (_FILES,)

    def scenes(self, root: Path, options: DatasetOptions) -> list[SceneFiles]:
        """Every record of every file: a file that is cut short is one scene, which cannot be read."""
        found = []
        for path in sorted({path for base in self.bases for path in root.glob(f"{base}/{_FILES}".removeprefix("./"))}):
            shard = path.name.replace(".tfrecord-", "-").partition("-of-")[0]
            try:
                offsets = record_offsets(path)
            except ValueError:
                offsets = [0]
            found += [SceneFiles(f"{shard}_{n}", path, (offset,)) for n, offset in enumerate(offsets)]
        return in_order(found, root, options)

    def files(self, scene: SceneFiles) -> list[Path]:
        return [scene.path]

    def track_files(self, scene: SceneFiles) -> list[Path]:
        return super().track_files(scene) or self.files(scene)

    def read(self, scene: SceneFiles) -> MultiViewScene:
        record_offsets(scene.path)
        record = _Record(scene.path, read_example(scene.path, scene.detail[0]))
        video = EncodedImages.of(scene.path, record.images("video"), FPS)
        focal, sensor = (float(record.numbers(f"camera/{name}", 1)[0]) for name in ("focal_length", "sensor_width"))
        if focal <= 0 or sensor <= 0:
            raise ValueError(f"{scene.path}: the lens is {focal:g} mm on {sensor:g} mm, expected positive numbers")
        height, width = video.size
        focal_px = focal / sensor * width
        K = torch.tensor([[focal_px, 0, width / 2], [0, focal_px, height / 2], [0, 0, 1]], dtype=torch.float64)
        positions, wxyz = record.rows("camera/positions", 3, video), record.rows("camera/quaternions", 4, video)
        camera = posed(positions, wxyz, K, video.size, Place(str(scene.path)))
        view = SceneView("camera", video, camera, partial(record.depth, camera), partial(record.moving, video.size))
        tracks = scene_tracks(scene, 1) or partial(record.tracks, camera, scene.name)
        return MultiViewScene(scene.name, (view,), tracks=tracks)


class _Record:
    """The features of one record, checked as they are taken."""

    def __init__(self, path: Path, features: dict[str, Values]) -> None:
        self.path, self.features = path, features

    def images(self, name: str) -> list[bytes]:
        found = self.features.get(name)
        if not isinstance(found, list) or not found:
            raise ValueError(f"{self.path}: a record lacks the feature {name}")
        return found

    def numbers(self, name: str, count: int) -> np.ndarray:
        found = self.features.get(name)
        if not isinstance(found, np.ndarray) or found.size != count:
            raise ValueError(f"{self.path}: a record's feature {name} must be {count} numbers")
        return found

    def rows(self, name: str, columns: int, video: EncodedImages) -> Float[Tensor, "T c"]:
        table = self.numbers(name, len(video) * columns).reshape(-1, columns)
        return numbers(table, Place(str(self.path)).field(name), (None, columns))

    def depth(self, camera: Camera, frames: int) -> Float[Tensor, "T H W"]:
        """z-depth of the first frames."""
        return z_from_distance(self.distance(camera.size, frames), camera.K[:frames])

    def distance(self, size: tuple[int, int], frames: int) -> Float[Tensor, "T H W"]:
        """From the camera's centre: 16 bits between the ends of a range."""
        low, high = self.numbers("metadata/depth_range", 2).tolist()
        stored = [decode_map(raw, self.path, np.uint16) for raw in self.images("depth")[:frames]]
        if not 0 <= low < high:
            raise ValueError(f"{self.path}: metadata/depth_range is {low:g} to {high:g}, expected 0 <= low < high")
        return low + same_size(stored, size, self.path).float() * ((high - low) / 65535)

    def moving(self, size: tuple[int, int], frames: int) -> Bool[Tensor, "T H W"]:
        """Objects; of datasets that tell, those alone that are thrown. Number n is the object n - 1."""
        ids, thrown = self.ids(size, frames), self.features.get("instances/is_dynamic")
        if not isinstance(thrown, np.ndarray):
            return ids > 0
        return torch.isin(ids, torch.from_numpy(np.flatnonzero(thrown) + 1).to(ids.dtype))

    def ids(self, size: tuple[int, int], frames: int) -> UInt8[Tensor, "T H W"]:
        stored = [decode_map(raw, self.path, np.uint8) for raw in self.images("segmentations")[:frames]]
        return same_size(stored, size, self.path)

    def tracks(self, camera: Camera, name: str) -> PointTracks:
        """Of pixels drawn by the scene's name. Raises ValueError for a record without its objects' poses."""
        size, frames = camera.size, len(camera.c2w)
        ids, distance, normals = self.ids(size, frames), self.distance(size, frames), self.normals(frames)
        short = next((part for part in (ids, distance, normals) if part is not None and len(part) != frames), None)
        if short is not None:
            raise ValueError(f"{self.path}: a record's video has {frames} frames, its maps {len(short)}")
        position, wxyz = (self.per_object(f"instances/{name}", n, frames) for name, n in _POSE.items())
        if len(position) != len(wxyz) or int(ids.max()) > len(position):
            shown = f"{len(position)} positions, {len(wxyz)} quaternions and masks up to {int(ids.max())}"
            raise ValueError(f"{self.path}: a record's objects have {shown}: these must be as many")
        if ((wxyz.norm(dim=-1) - 1).abs() > UNIT_LENGTH).any():
            raise ValueError(f"{self.path}: a record's instances/quaternions have other lengths than 1")
        depth, rotation = z_from_distance(distance, camera.K), matrix_from_quaternion(wxyz)
        scene = RigidScene(camera, depth, distance, ids, position, rotation, normals)
        return track_points(scene, np.random.default_rng(list(name.encode())))

    def per_object(self, name: str, columns: int, frames: int) -> Float[Tensor, "O T c"]:
        """Numbers of every object and frame. Raises ValueError where they are missing or not finite."""
        found = self.features.get(name)
        if not isinstance(found, np.ndarray) or found.size % (frames * columns):
            raise ValueError(f"{self.path}: a record's feature {name} must be {columns} numbers an object and frame")
        if not np.isfinite(found).all():
            raise ValueError(f"{self.path}: a record's feature {name} holds a number that is not finite")
        return torch.from_numpy(found.reshape(-1, frames, columns).astype(np.float64))

    def normals(self, frames: int) -> Float[Tensor, "T H W 3"] | None:
        """In the world's axes: 16 bits from -1 to 1; None for a record without them."""
        if "normal" not in self.features:
            return None
        stored = [decode_colours(raw, self.path) for raw in self.images("normal")[:frames]]
        return torch.from_numpy(np.stack(stored).astype(np.float32)) * (2 / 65535) - 1
