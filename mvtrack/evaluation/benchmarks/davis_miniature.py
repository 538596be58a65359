"""A miniature DAVIS: rendered scenes in DAVIS's very layout, and in a folder beside it the truth that DAVIS lacks."""

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from mvtrack.data.synthetic.camera_rig import RigStyle, base_pose, reference_motion
from mvtrack.data.synthetic.point_tracks import sample_tracks
from mvtrack.data.synthetic.renderer import FIRST_OBJECT, Render, render
from mvtrack.data.synthetic.scene import Scene, SceneStyle, sample_scene
from mvtrack.evaluation.benchmarks.davis_list import DavisCase, make_list, write_list
from mvtrack.evaluation.benchmarks.pictures import mark_miniature
from mvtrack.geometry.camera import Camera, intrinsics_from_fov
from mvtrack.geometry.pose_files import CameraSequence, write_cameras
from mvtrack.geometry.pose_files.sequence import frame_names
from mvtrack.geometry.trajectory import moved_along

LIST_FILE = "miniature.csv"
_STREAM = 4001  # keeps these scenes apart from training and test scenes
_FOV_DEG = 50.0
_PALETTE = [0, 0, 0, 128, 0, 0, 0, 128, 0, 128, 128, 0, 0, 0, 128, 128, 0, 128, 0, 128, 128, 128, 128, 128]  # DAVIS's
_POINTS = 64  # true tracks of a sequence
_STILL_M = 0.05  # an object that moves less than this in a clip is background


@dataclass(frozen=True)
class DavisMiniatureStyle:
    """size: of the frames, a quarter of DAVIS's. short: the number of frames of every fifth sequence."""

    num_sequences: int = 10
    num_frames: int = 17
    short: int = 13
    size: tuple[int, int] = (120, 214)
    seed: int = 0


def write_davis_miniature(root: Path, style: DavisMiniatureStyle | None = None) -> tuple[DavisCase, ...]:
    """Render all sequences under `root` and the list of cases, one preset for each in turn; returns the list."""
    style = style or DavisMiniatureStyle()
    names = [f"scene-{i:02d}" for i in range(style.num_sequences)]
    cases = make_list(names, "round_robin")
    for i, case in enumerate(cases):
        _write_sequence(root, case, style, i)
    mark_miniature(root)
    (root / "ImageSets/2017").mkdir(parents=True, exist_ok=True)
    (root / "ImageSets/2017/val.txt").write_text("".join(f"{name}\n" for name in names))
    write_list(root / LIST_FILE, cases)
    return cases


def _write_sequence(root: Path, case: DavisCase, style: DavisMiniatureStyle, number: int) -> None:
    rng = np.random.default_rng([_STREAM, style.seed, number])
    frames = style.short if number % 5 == 4 else style.num_frames
    scene = sample_scene(rng, frames, SceneStyle())
    K = intrinsics_from_fov(_FOV_DEG, style.size)
    first, pivot = base_pose(rng, float(K[0, 0] / style.size[1]))
    moving = RigStyle(moving_reference=1.0)  # parallax, so that depth can be estimated
    source = Camera(
        first @ reference_motion(rng, pivot, frames, moving), K.double().expand(frames, 3, 3), style.size, True
    )
    target = moved_along(source, case.path(pivot))
    camera = Camera.stack([source, target]).to(dtype=torch.float32)
    rendered = render(scene, camera)
    tracks, _, _ = sample_tracks(scene, camera, rendered, _POINTS, np.random.default_rng([_STREAM, style.seed, number]))
    images, masks = (root / part / "480p" / case.sequence for part in ("JPEGImages", "Annotations"))
    truth = root / "Truth/480p" / case.sequence
    for folder in (images, masks, truth / case.path_name):
        folder.mkdir(parents=True, exist_ok=True)
    reference, seen = (_view(rendered, v) for v in (0, 1))
    moves = _moving_objects(scene)
    for t in range(frames):
        picture = Image.fromarray(reference.video[t].permute(1, 2, 0).numpy())  # (H, W, 3)
        picture.save(images / f"{t:05d}.jpg", quality=95)
        _write_mask(masks / f"{t:05d}.png", reference.ids[t], moves)
        Image.fromarray(seen.video[t].permute(1, 2, 0).numpy()).save(truth / case.path_name / f"{t:05d}.png")
    write_cameras(truth / "cameras.json", CameraSequence(source, frame_names(frames)), "json", overwrite=True)
    np.savez_compressed(truth / "depth.npz", depth=reference.depth.numpy(), subject_distance=np.float64(pivot))
    np.savez_compressed(truth / case.path_name / "depth.npz", depth=seen.depth.numpy())
    arrays = {name: getattr(tracks, name).numpy() for name in ("xy", "visible", "valid")}
    np.savez_compressed(truth / case.path_name / "tracks.npz", **arrays)


def _view(rendered: Render, view: int) -> Render:
    return Render(rendered.video[view], rendered.depth[view], rendered.ids[view])


def _moving_objects(scene: Scene) -> list[int]:
    """Surface ids of objects that go somewhere or turn."""
    walked = (scene.position - scene.position[:1]).norm(dim=-1).amax(0)
    relative = scene.rotation[:1].mT @ scene.rotation
    cosine = ((relative.diagonal(dim1=-2, dim2=-1).sum(-1) - 1) / 2).amin(0)
    return [FIRST_OBJECT + int(o) for o in ((walked > _STILL_M) | (cosine < math.cos(0.1))).nonzero()[:, 0]]


def _write_mask(path: Path, ids: Tensor, moving: list[int]) -> None:
    """A palette image: 0 background, 1, 2, ... the moving objects."""
    numbers = np.zeros(256, np.uint8)
    numbers[moving] = np.arange(1, len(moving) + 1)
    mask = Image.fromarray(numbers[ids.numpy()], mode="P")
    mask.putpalette(_PALETTE)
    mask.save(path)
