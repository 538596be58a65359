"""Rendered test cases: a dynamic scene, a moving reference camera and one preset as target, all from a seed.

Training validates on a few of them, the yardstick scores a pinned list of them (evaluation/manifest.json).
"""

import math
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool
from torch import Tensor

from mvtrack.data.clip import Clip
from mvtrack.data.synthetic.camera_rig import (
    RigStyle,
    amount_of,
    base_pose,
    intrinsics_path,
    reference_motion,
    sample_cameras,
)
from mvtrack.data.synthetic.point_tracks import sample_tracks
from mvtrack.data.synthetic.renderer import FIRST_OBJECT, Render, render
from mvtrack.data.synthetic.scene import Scene, SceneStyle, sample_scene
from mvtrack.geometry.camera import Camera
from mvtrack.geometry.presets import PRESETS
from mvtrack.geometry.trajectory import CameraPath

_STREAM = 7919  # keeps test seeds apart from every bank's


@dataclass(frozen=True)
class CaseSpec:
    """What is pinned of a case. angle_deg: strength of the preset as seen from its pivot; start: see CameraPath."""

    seed: int
    preset: str
    angle_deg: float
    start: float
    size: tuple[int, int] = (64, 64)
    num_frames: int = 17


@dataclass(frozen=True)
class RenderedCase:
    """clip: view 0 reference, view 1 the true target. mirrored_camera: (2, T), the same reference, the opposite path.
    moving: pixels of the target that show a thing which moves."""

    spec: CaseSpec
    clip: Clip
    mirrored_camera: Camera
    moving: Bool[Tensor, "T H W"]


def render_case(spec: CaseSpec, num_points: int = 0) -> RenderedCase:
    """Render both views of a case, with tracks of `num_points` points where asked for."""
    rng, scene, true, mirrored = set_up_case(spec)
    rendered = render(scene, true)
    clip = Clip(
        rendered.video.float() / 127.5 - 1,
        true,
        key=f"rendered-{spec.seed}-{spec.preset}",
        depth=rendered.depth,
        tracks=sample_tracks(scene, true, rendered, num_points, rng)[0] if num_points else None,
    )
    return RenderedCase(spec, clip, mirrored, _moving(scene, rendered)[1])


def _moving(scene: Scene, rendered: Render) -> Bool[Tensor, "V T H W"]:
    """Pixels of objects that change place or turn at all."""
    apart = [(x - x[:1]).abs().amax(0).flatten(1).amax(1) > 1e-6 for x in (scene.position, scene.rotation)]
    moves = torch.cat([torch.zeros(FIRST_OBJECT, dtype=torch.bool), apart[0] | apart[1]])
    return moves[rendered.ids.long()]


def goes_underground(spec: CaseSpec) -> bool:
    """Whether a camera of a case comes within 10 cm of the ground, or below."""
    return bool((set_up_case(spec)[2].c2w[..., 1, 3] > -0.1).any())


def set_up_case(spec: CaseSpec) -> tuple[np.random.Generator, Scene, Camera, Camera]:
    """A case's generator, its scene, and the cameras (2, T) of the true and the mirrored path."""
    rng = np.random.default_rng([_STREAM, spec.seed])
    scene = sample_scene(rng, spec.num_frames, SceneStyle())
    style = RigStyle()
    focal = math.exp(rng.uniform(*np.log(style.focal)))
    first, pivot_m = base_pose(rng, focal)
    reference = first @ reference_motion(rng, pivot_m, spec.num_frames, style)
    other_focal = focal * math.exp(rng.uniform(-0.2, 0.2)) if rng.uniform() < 0.3 else focal
    K = torch.stack([intrinsics_path(rng, np.full(spec.num_frames, f), spec.size) for f in (focal, other_focal)])
    path = CameraPath(spec.preset, amount_of(spec.preset, spec.angle_deg, pivot_m), pivot_m=pivot_m, start=spec.start)
    true, mirrored = (
        Camera(torch.stack([reference, first @ p.poses(spec.num_frames)]).float(), K.float(), spec.size, True)
        for p in (path, path.mirrored())
    )
    return rng, scene, true, mirrored


def render_still_scene(seed: int, num_views: int, num_frames: int, size: tuple[int, int]) -> Clip:
    """Views of a still scene that no bank holds; with several frames, paths through it."""
    rng = np.random.default_rng([_STREAM, 2, seed])
    scene = sample_scene(rng, num_frames, SceneStyle(static=True))
    camera = sample_cameras(rng, num_views, num_frames, size, RigStyle())
    rendered = render(scene, camera)
    return Clip(rendered.video.float() / 127.5 - 1, camera, key=f"still-{seed}", depth=rendered.depth)


def case_specs(count: int, first_seed: int, size: tuple[int, int], num_frames: int) -> list[CaseSpec]:
    """A balanced list of cases: presets in turn, angles of 10-25 degrees, half of them starting midway."""
    specs = []
    for i in range(count):
        rng = np.random.default_rng([_STREAM, 1, first_seed + i])
        preset = list(PRESETS)[i % len(PRESETS)]
        angle = round(float(rng.uniform(10, 25)), 2)
        start = 0.5 if (i // len(PRESETS)) % 2 else 0.0
        specs.append(CaseSpec(first_seed + i, preset, angle, start, size, num_frames))
    return specs
