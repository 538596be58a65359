"""A miniature of the iPhone benchmark: rendered scenes in exactly dycheck's layout, with two still cameras each."""

import json
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
from PIL import Image
from torch import Tensor

from mvtrack.data.synthetic.camera_rig import RigStyle, base_pose, reference_motion
from mvtrack.data.synthetic.renderer import Render, render
from mvtrack.data.synthetic.scene import SceneStyle, sample_scene
from mvtrack.evaluation.benchmarks.pictures import mark_miniature
from mvtrack.geometry.camera import Camera
from mvtrack.geometry.pose_files import CameraSequence, write_cameras
from mvtrack.geometry.trajectory import CameraPath
from mvtrack.geometry.warp import covisible

_STREAM = 4003  # keeps these scenes apart from training and test scenes
_FOCAL = 1.0  # focal length over width, as an iPhone's in portrait
_ASIDE = (("arc_left", 17.0), ("arc_right", 22.0))  # degrees: where the still cameras stand
_FACTORS = (1, 2)


@dataclass(frozen=True)
class IphoneMiniatureStyle:
    """size: (H, W) of the frames, portrait and even. Every seventh frame of a still camera is bad, that is, missing."""

    num_sequences: int = 4
    num_frames: int = 17
    size: tuple[int, int] = (128, 96)
    seed: int = 0


def write_iphone_miniature(root: Path, style: IphoneMiniatureStyle | None = None) -> tuple[str, ...]:
    """Render all sequences under `root`; returns their names."""
    style = style or IphoneMiniatureStyle()
    names = tuple(f"scene-{i:02d}" for i in range(style.num_sequences))
    for i, name in enumerate(names):
        _write_sequence(root / name, style, i)
    mark_miniature(root)
    return names


def _write_sequence(folder: Path, style: IphoneMiniatureStyle, number: int) -> None:
    rng = np.random.default_rng([_STREAM, style.seed, number])
    frames = style.num_frames
    scene = sample_scene(rng, frames, SceneStyle())
    first, pivot = base_pose(rng, _FOCAL * style.size[1] / max(style.size))
    moving = first @ reference_motion(rng, pivot, frames, RigStyle(moving_reference=1.0))
    aside = [first @ CameraPath(preset, degrees, pivot).poses_at(torch.ones(1).double()) for preset, degrees in _ASIDE]
    c2w = torch.stack([moving, *(pose.expand(frames, 4, 4) for pose in aside)])
    K = torch.tensor([[1.0, 0, 0.5], [0, 1, 0], [0, 0, 0]], dtype=torch.float64) * _FOCAL * style.size[1]
    K[:2, 2], K[2, 2] = torch.tensor([style.size[1] / 2, style.size[0] / 2]), 1.0
    camera = Camera(c2w, K.expand(*c2w.shape[:2], 3, 3), style.size, True)
    rendered = render(scene, camera.to(dtype=torch.float32))
    ids = [[f"{v}_{t:05d}" for t in range(frames) if v == 0 or (t + v) % 7] for v in range(len(c2w))]
    for view, names in enumerate(ids):
        times = [int(name.split("_")[1]) for name in names]
        _write_view(folder, rendered, view, names, times)
        _write_cameras(folder, camera[view], names, times)
    _write_masks(folder, rendered, camera.to(dtype=torch.float32), ids[1:])
    _write_lists(folder, ids)


def _write_view(folder: Path, rendered: Render, view: int, names: list[str], times: list[int]) -> None:
    for name, t in zip(names, times, strict=True):
        for factor in _FACTORS:
            rgb = _shrunk(rendered.video[view, t].permute(1, 2, 0).numpy(), factor)  # (H, W, 3)
            alpha = np.full((*rgb.shape[:2], 1), 255, np.uint8)
            path = folder / "rgb" / f"{factor}x" / f"{name}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.concatenate([rgb, alpha], 2)).save(path)
            if view == 0:
                path = folder / "depth" / f"{factor}x" / f"{name}.npy"
                path.parent.mkdir(parents=True, exist_ok=True)
                np.save(path, _shrunk(rendered.depth[view, t].numpy(), factor)[..., None])


def _shrunk(image: np.ndarray, factor: int) -> np.ndarray:
    size = (image.shape[1] // factor, image.shape[0] // factor)
    return image if factor == 1 else cv2.resize(image, size, interpolation=cv2.INTER_AREA)


def _write_cameras(folder: Path, camera: Camera, names: list[str], times: list[int]) -> None:
    """One file a frame, all views in one folder."""
    aside = folder / f".camera-{names[0]}"
    write_cameras(aside, CameraSequence(camera[times], tuple(names)), "dycheck")
    (folder / "camera").mkdir(exist_ok=True)
    for file in aside.iterdir():
        file.replace(folder / "camera" / file.name)
    aside.rmdir()


def _write_masks(folder: Path, rendered: Render, camera: Camera, ids: list[list[str]]) -> None:
    """Which pixels of a still camera the moving one sees at some time of the clip: dycheck's meaning of covisible."""
    (folder / "covisible/2x/val").mkdir(parents=True)
    for view, names in enumerate(ids, 1):
        for name in names:
            seen = _seen_ever(rendered, camera, view, int(name.split("_")[1]))
            half = _shrunk(seen.numpy().astype(np.uint8) * 255, 2)
            Image.fromarray((half > 127).astype(np.uint8) * 255).save(folder / "covisible/2x/val" / f"{name}.png")


def _seen_ever(rendered: Render, camera: Camera, view: int, t: int) -> Tensor:
    """(H, W): static geometry as at time t, seen from any of the moving camera's places."""
    frames = len(rendered.depth[0])
    depth = rendered.depth[view, t].expand(frames, -1, -1)
    still = camera[view][[t] * frames]
    return covisible(depth, rendered.depth[0], still, camera[0]).any(0)


def _write_lists(folder: Path, ids: list[list[str]]) -> None:
    train, val = ids[0], [name for names in ids[1:] for name in names]
    numbers = {name: [int(part) for part in name.split("_")] for name in (*train, *val)}
    files = {
        "dataset.json": {
            "count": len(numbers), "num_exemplars": len(train), "ids": [*train, *val], "train_ids": train,
            "val_ids": val,
        },
        "metadata.json": {
            name: {"warp_id": time, "appearance_id": time, "camera_id": camera}
            for name, (camera, time) in numbers.items()
        },
        "scene.json": {"scale": 1.0, "center": [0.0, 0.0, 0.0], "near": 0.5, "far": 40.0},
        "extra.json": {
            "factor": 2, "fps": 30.0, "bbox": [[-3.0, -3.0, -3.0], [3.0, 0.0, 3.0]], "lookat": [0.0, -0.4, 0.0],
            "up": [0.0, -1.0, 0.0],
        },
    }  # fmt: skip
    for split, names in {"train": train, "val": val}.items():
        files[f"splits/{split}.json"] = {
            "camera_ids": [numbers[n][0] for n in names],
            "frame_names": names,
            "time_ids": [numbers[n][1] for n in names],
        }
    (folder / "splits").mkdir(exist_ok=True)
    for name, tree in files.items():
        (folder / name).write_text(json.dumps(tree, indent=1))
