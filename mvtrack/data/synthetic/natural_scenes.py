"""Rendered scenes whose pictures have more of real ones' statistics, for training: flat patches of all sizes with
hard borders (dead leaves), waves whose strength falls with their frequency (1/f), fine print, gradients, thin things.
"""

import math
from dataclasses import replace

import numpy as np
import torch

from mvtrack.data.synthetic.scene import Scene, SceneStyle, Textures, sample_scene

_THIN = 0.3  # share of objects that become a pole or a plate
_THIN_HALF_M = (0.015, 0.06)
_KINDS = {"plain": 0.2, "fractal": 0.25, "leaves": 0.3, "print": 0.15, "gradient": 0.1}  # share of surfaces
_LAYERS = 3


def natural_scene(rng: np.random.Generator, num_frames: int, style: SceneStyle) -> Scene:
    """A scene of `sample_scene` with other textures and some thin objects."""
    scene = sample_scene(rng, num_frames, style)
    half_size = scene.half_size.clone()
    for size in half_size:
        if rng.uniform() < _THIN:
            size[[0, 2] if rng.uniform() < 0.5 else [2]] = float(rng.uniform(*_THIN_HALF_M))
    return replace(scene, half_size=half_size, textures=_natural(rng, scene.textures))


def _natural(rng: np.random.Generator, plain: Textures) -> Textures:
    frequency, weight, contrast = plain.frequency.clone(), plain.weight.clone(), plain.contrast.clone()
    colour, leaves = plain.colour.clone(), torch.zeros(len(plain.colour), _LAYERS)
    waves = frequency.shape[1]
    for s, kind in enumerate(rng.choice(list(_KINDS), len(colour), p=list(_KINDS.values()))):
        mean = float(frequency[s].norm(dim=-1).mean())
        if kind == "fractal":
            finer = np.exp(rng.uniform(0, math.log(12), waves))
            frequency[s] *= torch.from_numpy(finer).float()[:, None]
            weight[s] *= torch.from_numpy(1.6 * finer**-0.5).float()
            contrast[s] = float(rng.uniform(1, 3))
        elif kind == "leaves":
            coarse = mean * math.exp(rng.uniform(math.log(1.0), math.log(3.0)))
            leaves[s] = torch.tensor([coarse * 2.3**layer for layer in range(_LAYERS)])
        elif kind == "print":
            colour[s, 0] = 0.75 + 0.25 * colour[s, 0]  # paper and ink
            colour[s, 1] *= 0.3
            axis = torch.from_numpy(rng.permutation(np.eye(3))).float()
            pitch = mean * float(rng.uniform(3, 8))
            frequency[s, 0] = axis[0] * pitch
            frequency[s, 1 : waves // 2] = axis[1] * pitch * torch.tensor([[1.7], [2.9]])[: waves // 2 - 1]
            contrast[s] = 4.0
        elif kind == "gradient":
            frequency[s] *= 0.3
            contrast[s] = 0.7
    return replace(plain, colour=colour, frequency=frequency, weight=weight, contrast=contrast, leaves=leaves)
