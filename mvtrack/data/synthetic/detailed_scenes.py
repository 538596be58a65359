"""Rendered scenes with textures of many scales, in which points can be found and matched: for judging estimators.

The scenes that models learn from are smooth, so that a small model can draw them; a feature detector finds
little there.
"""

import math
from dataclasses import replace

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from mvtrack.data.synthetic.camera_rig import amount_of, base_pose
from mvtrack.data.synthetic.renderer import Render, render
from mvtrack.data.synthetic.scene import Scene, SceneStyle, Textures, sample_scene
from mvtrack.geometry.camera import Camera, intrinsics_from_fov
from mvtrack.geometry.trajectory import CameraPath

_STREAM = 4391  # keeps these seeds apart from other sets'
_WAVES = 20  # fine ones, for each of a texture's two mixtures
_FINENESS = (1.5, 40.0)  # how many times shorter than a training scene's mean wave
_FADE = 0.35  # finer waves are weaker by this power of their fineness
_CONTRAST = (1.0, 2.0)  # more would leave hard-edged patches only
FOV_DEG = 55.0
STATIC = SceneStyle(min_objects=5, max_objects=8, static=True)


def detailed_scene(rng: np.random.Generator, num_frames: int, style: SceneStyle) -> Scene:
    """A random scene whose textures got fine waves of many lengths and directions: no place looks like another."""
    scene = sample_scene(rng, num_frames, style)
    return replace(scene, textures=_detailed(rng, scene.textures))


def _detailed(rng: np.random.Generator, plain: Textures) -> Textures:
    surfaces, count = len(plain.colour), 2 * _WAVES
    fineness = np.exp(rng.uniform(*np.log(_FINENESS), (surfaces, count)))
    direction = rng.normal(size=(surfaces, count, 3))
    direction /= np.linalg.norm(direction, axis=-1, keepdims=True)
    mean = plain.frequency.norm(dim=-1).mean(1).numpy()[:, None]
    weight = rng.uniform(1.2, 2.4, (surfaces, count)) * fineness**-_FADE / math.sqrt(_WAVES)
    phase = rng.uniform(0, 2 * np.pi, (surfaces, count))
    return replace(
        plain,
        frequency=_joined(plain.frequency, direction * (mean * fineness)[..., None]),
        phase=_joined(plain.phase, phase),
        weight=_joined(plain.weight, weight),
        contrast=plain.contrast.clamp(*_CONTRAST),
    )


def _joined(waves: Float[Tensor, "S W *c"], more: np.ndarray) -> Float[Tensor, "S V *c"]:
    """Both mixtures, the halves of a texture's waves, with half of the further waves each."""
    halves = zip(waves.chunk(2, 1), torch.from_numpy(more).float().chunk(2, 1), strict=True)
    return torch.cat([part for pair in halves for part in pair], 1)


def detailed_case(
    seed: int, preset: str, angle_deg: float, num_frames: int, size: tuple[int, int], style: SceneStyle = STATIC
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
