"""Random dynamic scenes: what stands where, how it moves and what it looks like. Rendering is in renderer.py.

World axes: x right, y down, z forward, ground at y = 0, metres. Every number comes from one seeded generator in
float64, so a seed gives the same scene on every machine.
"""

import math
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

SPHERE, BOX, CYLINDER = range(3)
WAVES = 6  # sine waves in one texture


@dataclass(frozen=True)
class Textures:
    """One smooth solid texture per surface: two mixtures of sine waves blend three colours."""

    colour: Float[Tensor, "S 3 3"]  # three RGB colours in [0, 1]
    frequency: Float[Tensor, "S W 3"]  # cycles per metre
    phase: Float[Tensor, "S W"]  # radians
    weight: Float[Tensor, "S W"]
    contrast: Float[Tensor, "S"]  # > 1 turns waves into soft-edged patches
    leaves: Float[Tensor, "S L"] | None = None  # irregular flat-coloured cells per metre, of L layers; 0: none


@dataclass(frozen=True)
class Scene:
    """Moving primitives on a textured ground inside a textured dome or room.

    Surface indices: 0 is the surround, 1 the ground, 2.. the objects; `textures` and rendered ids follow them.
    """

    kind: Int[Tensor, "O"]
    half_size: Float[Tensor, "O 3"]  # metres along the object's own axes
    rotation: Float[Tensor, "T O 3 3"]  # object to world
    position: Float[Tensor, "T O 3"]
    textures: Textures
    light: Float[Tensor, "3"]  # unit vector towards the light
    ambient: float
    dome_radius: float | None  # None: a room instead
    room_half_size: Float[Tensor, "3"]

    @property
    def num_frames(self) -> int:
        return self.position.shape[0]


@dataclass(frozen=True)
class SceneStyle:
    """Ranges a random scene is drawn from. `motion` and `spin` scale how far objects move and turn in one clip."""

    min_objects: int = 3
    max_objects: int = 6
    motion_m: float = 0.8
    spin_deg: float = 90.0
    static: bool = False

    def __post_init__(self) -> None:
        if not 1 <= self.min_objects <= self.max_objects:
            raise ValueError(f"min_objects must lie in [1, max_objects], got {self.min_objects} and {self.max_objects}")


def sample_scene(rng: np.random.Generator, num_frames: int, style: SceneStyle) -> Scene:
    """Draw one scene. `rng` decides everything; float32 comes only at the very end."""
    count = int(rng.integers(style.min_objects, style.max_objects + 1))
    kind = rng.integers(0, 3, count)
    half_size = rng.uniform(0.18, 0.55, (count, 3))
    half_size[kind == SPHERE] = half_size[kind == SPHERE, :1] * rng.uniform(0.75, 1.25, ((kind == SPHERE).sum(), 3))
    half_size[kind == CYLINDER, 2] = half_size[kind == CYLINDER, 0]
    rotation, position = _sample_motion(rng, half_size, num_frames, style)
    elevation, azimuth = math.radians(rng.uniform(35, 75)), rng.uniform(0, 2 * math.pi)
    light = [math.cos(elevation) * math.cos(azimuth), -math.sin(elevation), math.cos(elevation) * math.sin(azimuth)]
    is_dome = rng.uniform() < 0.5
    return Scene(
        kind=torch.from_numpy(kind),
        half_size=_f32(half_size),
        rotation=_f32(rotation),
        position=_f32(position),
        textures=_sample_textures(rng, count),
        light=_f32(np.array(light)),
        ambient=float(rng.uniform(0.45, 0.7)),
        dome_radius=float(rng.uniform(12, 30)) if is_dome else None,
        room_half_size=_f32(rng.uniform([7, 5, 7], [12, 9, 12])),
    )


def _f32(array: np.ndarray) -> Tensor:
    return torch.from_numpy(np.array(array, dtype=np.float64)).float()


def _sample_motion(
    rng: np.random.Generator, half_size: np.ndarray, num_frames: int, style: SceneStyle
) -> tuple[np.ndarray, np.ndarray]:
    """Object-to-world rotations (T, O, 3, 3) and centres (T, O, 3)."""
    count = len(half_size)
    centre = _place_apart(rng, half_size)
    time = np.linspace(-0.5, 0.5, num_frames)[:, None]
    heading, turn = rng.uniform(0, 2 * np.pi, count), rng.uniform(-2, 2, count)
    reach = rng.uniform(0.15, 1, count) * style.motion_m * (rng.uniform(size=count) < 0.8)
    angle = heading + turn * time  # curved walks: direction changes while moving
    step = np.stack([np.cos(angle), np.zeros_like(angle), np.sin(angle)], -1) * reach[None, :, None] / num_frames
    walk = np.cumsum(step, 0)
    position = centre + walk - walk[num_frames // 2]
    hop_height = rng.uniform(0.1, 0.5, count) * style.motion_m * (rng.uniform(size=count) < 0.3)
    hop_phase, hop_rate = rng.uniform(0, np.pi, count), rng.uniform(1, 2.5, count)
    position[..., 1] -= hop_height * np.abs(np.sin(hop_phase + np.pi * hop_rate * time))
    axis = rng.normal(size=(count, 3))
    upright = rng.uniform(size=count) < 0.6
    axis[upright] = [0, 1, 0]
    axis /= np.linalg.norm(axis, axis=-1, keepdims=True)
    spin = np.radians(style.spin_deg) * rng.uniform(-1, 1, count) * (rng.uniform(size=count) < 0.7)
    rest = rng.uniform(0, 2 * np.pi, count)
    if style.static:
        position, spin = np.broadcast_to(centre, position.shape), 0 * spin
    return _axis_angle(axis, rest + spin * time), position


def _place_apart(rng: np.random.Generator, half_size: np.ndarray) -> np.ndarray:
    """Centres (O, 3) of objects that stand on the ground or float, kept from overlapping where there is room."""
    centres: list[np.ndarray] = []
    for i, size in enumerate(half_size):
        radius = np.linalg.norm(size)
        lift = rng.uniform(0.1, 0.9) if rng.uniform() < 0.25 else 0.0
        for _ in range(20):
            distance, angle = 1.9 * math.sqrt(rng.uniform()), rng.uniform(0, 2 * math.pi)
            spot = np.array([distance * math.cos(angle), -size[1] - lift, distance * math.sin(angle)])
            gaps = [
                np.linalg.norm(spot - c) - 0.7 * (radius + np.linalg.norm(half_size[j])) for j, c in enumerate(centres)
            ]
            if i == 0 or min(gaps) > 0:
                break
        centres.append(spot)
    return np.stack(centres)


def _axis_angle(axis: np.ndarray, angle: np.ndarray) -> np.ndarray:
    """Rotation matrices (T, O, 3, 3) about unit axes (O, 3) by angles (T, O), Rodrigues' formula."""
    x, y, z = axis.T
    zero = np.zeros_like(x)
    cross = np.stack([zero, -z, y, z, zero, -x, -y, x, zero], -1).reshape(-1, 3, 3)
    angle = angle[..., None, None]
    return np.eye(3) + np.sin(angle) * cross + (1 - np.cos(angle)) * (cross @ cross)


def _sample_textures(rng: np.random.Generator, num_objects: int) -> Textures:
    """Textures of surround, ground and objects. Wavelengths fit each surface's distance, so that nothing aliases."""
    surfaces = num_objects + 2
    base = rng.uniform(0, 1, (surfaces, 3, 3))
    vivid = rng.uniform(0.35, 1, (surfaces, 1, 1))
    colour = base * vivid + base.mean(-1, keepdims=True) * (1 - vivid)
    direction = rng.normal(size=(surfaces, WAVES, 3))
    direction /= np.linalg.norm(direction, axis=-1, keepdims=True)
    fastest = np.concatenate([rng.uniform(0.06, 0.3, 1), rng.uniform(0.3, 1.3, 1), rng.uniform(0.5, 1.8, num_objects)])
    fastest *= np.exp(rng.uniform(math.log(0.8), math.log(2.2), surfaces))
    frequency = fastest[:, None] * rng.uniform(0.2, 1, (surfaces, WAVES))
    return Textures(
        colour=_f32(colour),
        frequency=_f32(direction * frequency[..., None]),
        phase=_f32(rng.uniform(0, 2 * np.pi, (surfaces, WAVES))),
        weight=_f32(rng.uniform(0.4, 1, (surfaces, WAVES))),
        contrast=_f32(np.exp(rng.uniform(math.log(0.6), math.log(6), surfaces))),
    )
