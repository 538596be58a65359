"""The iPhone captures of dycheck (Gao et al. 2022): one moving camera, and still ones beside it that miss some times.

{sequence}/rgb/1x/{camera}_{frame}.png, camera/{camera}_{frame}.json, splits/{train,val}.json, depth/1x/{frame}.npy
"""

import json
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from mvtrack.data.public.files import inside, read_depth
from mvtrack.data.public.layout import DatasetLayout, MultiViewScene, SceneFiles, SceneView
from mvtrack.geometry.camera import Camera
from mvtrack.geometry.pose_files import read_cameras
from mvtrack.video.images import ImageVideo


@dataclass(frozen=True)
class Frame:
    """One picture: its name in all folders, its camera, and when it was taken (frames of the capture)."""

    name: str
    camera: int
    time: int


class IPhoneCaptures(DatasetLayout):
    """The moving camera; what the still ones show is for evaluation (mvtrack/evaluation/benchmarks/iphone.py)."""

    name = "iphone"
    title = "iPhone captures of dycheck"
    domain = "photo"
    signs = ("splits/train.json", "camera/*.json", "rgb/1x/*.png")

    def files(self, scene: SceneFiles) -> list[Path]:
        frames = split_frames(scene.path, "train")
        cameras = [camera_file(scene.path, frame) for frame in frames]
        return [*(picture_file(scene.path, frame) for frame in frames), *cameras, *self._depth(scene.path)]

    def _depth(self, folder: Path) -> list[Path]:
        if not (folder / "depth/1x").is_dir():
            return []
        return [inside(folder / "depth/1x", f"{frame.name}.npy", folder) for frame in split_frames(folder, "train")]

    def read(self, scene: SceneFiles) -> MultiViewScene:
        folder, frames = scene.path, sorted(split_frames(scene.path, "train"), key=lambda frame: frame.time)
        pictures = [picture_file(folder, frame) for frame in frames]
        video = ImageVideo.of(folder, pictures, float(extra(folder).get("fps", 30.0)))
        camera = Camera.stack([read_camera(folder, frame) for frame in frames])
        if camera.size[0] * video.size[1] == camera.size[1] * video.size[0]:  # written for pictures of another scale
            camera = camera.resized(video.size)
        depth = [folder / "depth/1x" / f"{frame.name}.npy" for frame in frames] if self._depth(folder) else None
        view = SceneView("moving", video, camera, None if depth is None else partial(_stacked, depth))
        return MultiViewScene(scene.name, (view,))


def _stacked(files: list[Path], frames: int) -> Float[Tensor, "T H W"]:
    return torch.stack([read_depth(path) for path in files[:frames]])


def picture_file(folder: Path, frame: Frame) -> Path:
    return inside(folder / "rgb/1x", f"{frame.name}.png", folder)


def camera_file(folder: Path, frame: Frame) -> Path:
    return inside(folder / "camera", f"{frame.name}.json", folder)


def read_camera(folder: Path, frame: Frame) -> Camera:
    """Of one picture. Raises ValueError for a distorted lens."""
    path = camera_file(folder, frame)
    sequence = read_cameras(path, "dycheck")
    if sequence.distortion is not None:
        raise ValueError(f"{path} has lens distortion: undistort the pictures first")
    return sequence.camera[0]


@lru_cache(maxsize=64)
def split_frames(folder: Path, split: str) -> tuple[Frame, ...]:
    """The frames of `train` (the moving camera's) or `val` (those of still ones), in the order of its file."""
    path = folder / "splits" / f"{split}.json"
    tree = _json(path)
    columns = [tree.get(name) for name in ("frame_names", "camera_ids", "time_ids")]
    if not all(isinstance(c, list) and len(c) == len(columns[0]) for c in columns):
        raise ValueError(f"{path} needs frame_names, camera_ids and time_ids of one length")
    try:
        return tuple(Frame(str(name), int(camera), int(time)) for name, camera, time in zip(*columns, strict=True))
    except (ValueError, TypeError) as error:
        raise ValueError(f"{path} has a camera or time that is no whole number: {error}") from None


def extra(folder: Path) -> dict:
    """What else is said of a sequence, such as its frame rate."""
    path = folder / "extra.json"
    return _json(path) if path.is_file() else {}


def _json(path: Path) -> dict:
    try:
        tree = json.loads(path.read_text())
    except OSError as error:
        raise ValueError(f"cannot read {path}: {error.strerror or error}") from None
    except ValueError as error:
        raise ValueError(f"{path} is no JSON: {error}") from None
    if not isinstance(tree, dict):
        raise ValueError(f"{path} must hold a mapping, got {type(tree).__name__}")
    return tree
