"""Rendered scenes with textures of many scales, in which points can be found and matched: for judging estimators.

The scenes that models learn from are smooth, so that a small model can draw them; a feature detector finds
little there.
"""

import math
from dataclasses import replace

import numpy as np
import torch

from mvtrack.camera import Camera, intrinsics_from_fov
from mvtrack.data.renderer import Render, render
from mvtrack.data.rig import amount_of, base_pose
from mvtrack.data.scene import Scene, SceneStyle, sample_scene
from mvtrack.trajectory import CameraPath

_STREAM = 4391  # keeps these seeds apart from other sets'
_FINEST = 10.0  # waves are up to this much shorter than in training scenes
FOV_DEG = 55.0
STATIC = SceneStyle(min_objects=5, max_objects=8, static=True)


def detailed_scene(rng: np.random.Generator, num_frames: int, style: SceneStyle) -> Scene:
    """A random scene whose waves were shortened by random factors, so that patterns do not repeat."""
    scene = sample_scene(rng, num_frames, style)
    frequency = scene.textures.frequency
    finer = np.exp(rng.uniform(math.log(1.5), math.log(_FINEST), frequency.shape[:2]))
    textures = replace(scene.textures, frequency=frequency * torch.from_numpy(finer).float()[..., None])
    return replace(scene, textures=textures)


def detailed_case(
    seed: int,
    preset: str,
    angle_deg: float,
    num_frames: int,
    size: tuple[int, int],
    style: SceneStyle = STATIC,
) -> tuple[Scene, Camera, Render]:
    """A scene seen along one preset, as strong as a turn by `angle_deg` seen from its pivot; one view (1, T)."""
    rng = np.random.default_rng([_STREAM, seed])
    scene = detailed_scene(rng, num_frames, style)
    K = intrinsics_from_fov(FOV_DEG, size)
    first, pivot_m = base_pose(rng, float(K[0, 0]) / max(size))
    path = CameraPath(preset, amount_of(preset, angle_deg, pivot_m), pivot_m=pivot_m)
    c2w = (first @ path.poses(num_frames)).float()
    camera = Camera(c2w[None], K.expand(1, num_frames, 3, 3), size, scale_known=True)
    return scene, camera, render(scene, camera)
