"""RealEstate10K: camera paths through still rooms. As its authors give it, and as pixelSplat's chunks hold it.

{train,test}/{id}.txt, and the frames that a user took from the videos, {id}/{microseconds}.{jpg,png} beside the file
re10k/{train,test}/index.json {scene: chunk}, 000000.torch …: a list of {key, timestamps, cameras (N, 18), images}
"""

import pickle
from functools import lru_cache
from pathlib import Path

import torch

from mvtrack.config.datasets import DatasetOptions
from mvtrack.data.public.encoded_images import EncodedImages
from mvtrack.data.public.files import inside
from mvtrack.data.public.layout import (
    LOOKED_AT,
    DatasetLayout,
    Fitting,
    MultiViewScene,
    SceneFiles,
    SceneView,
    in_order,
    photograph,
)
from mvtrack.geometry.camera import Camera
from mvtrack.geometry.pose_files import read_cameras
from mvtrack.geometry.pose_files.geometry import c2w_from_w2c, full_poses, pinhole_matrix
from mvtrack.geometry.pose_files.parse import Place, read_json
from mvtrack.geometry.pose_files.realestate10k import REALESTATE10K
from mvtrack.geometry.pose_files.source import PoseSource
from mvtrack.video.images import images_in, read_image

_TABLE, _PICTURES = "ID.txt with 19 columns", "ID/MICROSECONDS.png or .jpg"
_TABLES = ("train/*.txt", "test/*.txt", "*.txt")
_INDEX = "index.json"


class RealEstate10K(DatasetLayout):
    name = "realestate10k"
    title = "RealEstate10K, text files and frames"
    domain = "photo"
    bases = ("train", "test", ".")
    signs = (_TABLE, _PICTURES)

    def fitting(self, root: Path) -> Fitting:
        tables = _tables(root)[:LOOKED_AT]
        tables = [path for path in tables if REALESTATE10K.detect(PoseSource(path))]
        framed = any(path.with_suffix("").is_dir() for path in tables)
        there = ((_TABLE,) if tables else ()) + ((_PICTURES,) if framed else ())
        return Fitting(".", there, tuple(sign for sign in self.signs if sign not in there))

    def scenes(self, root: Path, options: DatasetOptions) -> list[SceneFiles]:
        tables = [path for path in _tables(root) if path.with_suffix("").is_dir()]
        names = ("_".join(path.relative_to(root).with_suffix("").parts) for path in tables)
        return in_order([SceneFiles(name, path) for name, path in zip(names, tables, strict=True)], root, options)

    def files(self, scene: SceneFiles) -> list[Path]:
        return [scene.path, *images_in(scene.path.with_suffix(""))]

    def read(self, scene: SceneFiles) -> MultiViewScene:
        """Frames whose pictures are there; a picture that no line is for is an error."""
        pictures = {path.stem: path for path in images_in(scene.path.with_suffix(""))}
        if not pictures:
            raise ValueError(f"{scene.path.with_suffix('')} holds no pictures")
        size = tuple(read_image(next(iter(pictures.values()))).shape[:2])
        sequence = read_cameras(scene.path, "realestate10k", size=size)
        strays = sorted(pictures.keys() - set(sequence.names))
        if strays:
            raise ValueError(f"{pictures[strays[0]]}: {scene.path.name} has no line for the time {strays[0]}")
        views = tuple(
            photograph(pictures[name], sequence.camera[i]) for i, name in enumerate(sequence.names) if name in pictures
        )
        return MultiViewScene(scene.name, views, is_still=True, is_path=True)


class PixelSplatChunks(DatasetLayout):
    """Also DTU as MVSplat converts it."""

    name = "pixelsplat"
    title = "chunks of pixelSplat and MVSplat (RealEstate10K, ACID, DTU)"
    domain = "photo"
    bases = ("train", "test", "*/train", "*/test", ".")
    signs = (_INDEX, "*.torch")

    def scenes(self, root: Path, options: DatasetOptions) -> list[SceneFiles]:
        found = []
        for base in self.bases:
            for folder in sorted(root.glob(base)) if base != "." else [root]:
                index = folder / _INDEX
                table = read_json(index, 1 << 28) if index.is_file() else {}
                if not isinstance(table, dict) or not all(isinstance(chunk, str) for chunk in table.values()):
                    raise ValueError(f"{index}: expected an object of scenes and their chunks' file names")
                split = folder.relative_to(root).parts
                found += [
                    SceneFiles("_".join((*split, key)), inside(folder, chunk, index), (key,))
                    for key, chunk in table.items()
                ]
        return in_order(found, root, options)

    def files(self, scene: SceneFiles) -> list[Path]:
        return [scene.path]

    def read(self, scene: SceneFiles) -> MultiViewScene:
        example = next((e for e in read_chunk(scene.path) if e["key"] == scene.detail[0]), None)
        if example is None:
            raise ValueError(f"{scene.path} holds no scene {scene.detail[0]}, which {_INDEX} says it does")
        images, rows = example["images"], example["cameras"].double()
        if tuple(rows.shape) != (len(images), 18) or not rows.isfinite().all():
            shape = tuple(rows.shape)
            raise ValueError(f"{scene.path}: cameras of {scene.name} must be ({len(images)}, 18), got {shape}")
        c2w = c2w_from_w2c(full_poses(rows[:, 6:].unflatten(-1, (3, 4))), Place(str(scene.path)))
        views = []
        for i, image in enumerate(images):
            video = EncodedImages.of(scene.path, [image.numpy().tobytes()], 24.0)
            height, width = video.size
            K = pinhole_matrix(*(rows[i : i + 1, :4] * rows.new_tensor([width, height, width, height])).unbind(-1))
            views.append(SceneView(f"{i:05d}", video, Camera(c2w[i : i + 1], K, video.size)))
        return MultiViewScene(scene.name, tuple(views), is_still=True, is_path=True)


@lru_cache(maxsize=2)
def read_chunk(path: Path) -> list[dict]:
    """The examples of a chunk, unpickled as tensors and plain values alone. Raises ValueError for anything else."""
    try:
        chunk = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, EOFError, ValueError, KeyError, pickle.UnpicklingError) as error:
        raise ValueError(f"{path} is not a chunk of tensors: {str(error).splitlines()[0][:200]}") from None
    kinds = {"key": str, "cameras": torch.Tensor, "images": list}
    for example in chunk if isinstance(chunk, list) else [None]:
        if not isinstance(example, dict) or not all(isinstance(example.get(k), kind) for k, kind in kinds.items()):
            raise ValueError(f"{path} must hold a list of examples with key, cameras and images")
        if not all(isinstance(image, torch.Tensor) and image.dtype == torch.uint8 for image in example["images"]):
            raise ValueError(f"{path}: images must be tensors of a file's bytes")
    return chunk


def _tables(root: Path) -> list[Path]:
    return sorted({path for pattern in _TABLES for path in root.glob(pattern)})
