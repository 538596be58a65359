"""MOVi-A to -F, Kubric's videos as TensorFlow Datasets store them: one camera, exact depth and masks, read without it.

movi_e/256x256/1.0.0/movi_e-train.tfrecord-00000-of-01024 …, features.json
"""

from functools import partial
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from mvtrack.config.datasets import DatasetOptions
from mvtrack.data.public.encoded_images import EncodedImages
from mvtrack.data.public.files import decode_map, same_size, z_from_distance
from mvtrack.data.public.kubric import posed
from mvtrack.data.public.layout import DatasetLayout, MultiViewScene, SceneFiles, SceneView, in_order
from mvtrack.data.public.tfrecord import Values, read_example, record_offsets
from mvtrack.geometry.camera import Camera
from mvtrack.geometry.pose_files.parse import Place, numbers

FPS = 12.0
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
        return MultiViewScene(scene.name, (view,))


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
        """z-depth: 16 bits between the ends of a range, of distances from the camera's centre."""
        low, high = self.numbers("metadata/depth_range", 2).tolist()
        stored = [decode_map(raw, self.path, np.uint16) for raw in self.images("depth")[:frames]]
        if not 0 <= low < high:
            raise ValueError(f"{self.path}: metadata/depth_range is {low:g} to {high:g}, expected 0 <= low < high")
        distance = low + same_size(stored, camera.size, self.path).float() * ((high - low) / 65535)
        return z_from_distance(distance, camera.K[:frames])

    def moving(self, size: tuple[int, int], frames: int) -> Bool[Tensor, "T H W"]:
        """Objects; of datasets that tell, those alone that are thrown. Number n is the object n - 1."""
        stored = [decode_map(raw, self.path, np.uint8) for raw in self.images("segmentations")[:frames]]
        ids, thrown = same_size(stored, size, self.path), self.features.get("instances/is_dynamic")
        if not isinstance(thrown, np.ndarray):
            return ids > 0
        return torch.isin(ids, torch.from_numpy(np.flatnonzero(thrown) + 1).to(ids.dtype))
