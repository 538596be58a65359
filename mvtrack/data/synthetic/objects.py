"""Single objects over white, from the rings of cameras that multi-view models of objects are trained with.

An object is a group of textured primitives that cut into each other, centred and scaled as the rig's authors do. World
axes are those of `Scene`: y points down, the object's centre is the origin of the clip's cameras.
"""

import math
from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float
from safetensors.torch import load_file, save_file
from torch import Tensor

from mvtrack.data.clip import Clip
from mvtrack.data.synthetic.detailed_scenes import detailed_scene
from mvtrack.data.synthetic.renderer import FIRST_OBJECT, render
from mvtrack.data.synthetic.scene import Scene, SceneStyle
from mvtrack.files.atomic_io import write_aside
from mvtrack.geometry.camera import Camera

Rig = Literal["wonder3d", "syncdreamer"]
WONDER3D_AZIMUTHS = (0, 45, 90, 180, -90, -45)  # degrees: front, front right, right, back, left, front left
_TILT_DEG, _ORTHO_SCALE = 14.96, 1.25  # of Wonder3D's whole rig, and the units that its pictures are wide
_RING, _ELEVATION_DEG, _DISTANCE, _FOCAL = 16, 30.0, 1.5, 280 / 256  # of SyncDreamer's views; focal length / width
_STREAM = 7_310_000
_HEIGHT = 5.0  # of an object above the ground, which is not shown
_STYLE = SceneStyle(min_objects=3, max_objects=6, static=True)


def wonder3d_rig(side: int) -> Camera:
    """Six orthographic views (6, 1) of `side` pixels in the order of training: one ring about the object, tilted."""
    focal = side / _ORTHO_SCALE
    poses = _ring(WONDER3D_AZIMUTHS, 0.0, 1.3)
    tilt = torch.eye(4, dtype=torch.float64)
    cos, sin = math.cos(math.radians(_TILT_DEG)), math.sin(math.radians(_TILT_DEG))
    tilt[1:3, 1:3] = torch.tensor([[cos, sin], [-sin, cos]], dtype=torch.float64)  # the front camera rises
    return Camera((tilt @ poses).float()[:, None], _lens(focal, side, 6), (side, side), projection="orthographic")


def syncdreamer_rig(side: int) -> Camera:
    """Sixteen perspective views (16, 1) of `side` pixels, every 22.5 degrees, from 30 degrees above."""
    azimuths = tuple(360 / _RING * i for i in range(_RING))
    poses = _ring(azimuths, _ELEVATION_DEG, _DISTANCE).float()[:, None]
    return Camera(poses, _lens(_FOCAL * side, side, _RING), (side, side))


class ObjectBank:
    """Objects of one rig and size under `root`, one safetensors file each, rendered when they are asked for. views: of
    the rig, in their order; None: all."""

    def __init__(self, root: Path | str, rig: Rig, side: int, seed: int, views: tuple[int, ...] | None = None) -> None:
        self.rig, self.side, self.seed, self.views = rig, side, seed, views
        some = "" if views is None else "_views" + "-".join(map(str, views))
        self.folder = Path(root) / f"{rig}_{side}_seed{seed}{some}"

    def clip(self, number: int) -> Clip:
        """An object, its colours of 8 bits."""
        path = self.folder / f"object_{number:08d}.safetensors"
        if not path.exists():
            made = object_clip(1_000_003 * self.seed + number, self.rig, self.side, views=self.views)
            tensors = {"video": ((made.video + 1) * 127.5).round().byte(), "depth": made.depth, "masks": made.masks}
            path.parent.mkdir(parents=True, exist_ok=True)
            write_aside(path, lambda aside: save_file(tensors, aside))
        found = load_file(path)
        camera = rig_of(self.rig, self.side, self.views)
        video, key = found["video"].float() / 127.5 - 1, f"{self.folder.name}/{number}"
        return Clip(video, camera, key=key, depth=found["depth"], masks=found["masks"], domain="rendered")


def rig_of(rig: Rig, side: int, views: tuple[int, ...] | None = None) -> Camera:
    """Cameras (V, 1) of a rig for pictures of `side` pixels. views: some of them; None: all."""
    camera = wonder3d_rig(side) if rig == "wonder3d" else syncdreamer_rig(side)
    return camera if views is None else camera[list(views)]


def object_clip(seed: int, rig: Rig, side: int, samples: int = 2, views: tuple[int, ...] | None = None) -> Clip:
    """Views of one object: pictures over white, its masks, and z-depth, 0 beside it.

    Scaled as the authors do: Wonder3D's have a bounding box of diagonal 1, SyncDreamer's one whose longest side is 1.
    """
    camera = rig_of(rig, side, views)
    scene = _object(np.random.default_rng([_STREAM, seed]), rig)
    lifted = camera.c2w.clone()
    lifted[..., 1, 3] -= _HEIGHT
    rendered = render(scene, replace(camera, c2w=lifted), samples)
    fine = render(scene, replace(camera, c2w=lifted).resized((side * samples, side * samples)), 1)
    share = (fine.ids >= FIRST_OBJECT).float().unflatten(-1, (-1, samples)).unflatten(-3, (-1, samples)).mean((-1, -3))
    shown = fine.video.float() * (fine.ids >= FIRST_OBJECT)[:, :, None]
    shown = shown.unflatten(-1, (-1, samples)).unflatten(-3, (-1, samples)).mean((-1, -3))
    video = shown / 127.5 + 2 * (1 - share[:, :, None]) - 1
    mask = rendered.ids >= FIRST_OBJECT
    depth = torch.where(mask, rendered.depth, 0.0)
    return Clip(video, camera, key=f"object-{seed}", depth=depth, masks=mask, domain="rendered")


def _ring(azimuths_deg: tuple[float, ...], elevation_deg: float, distance: float) -> Float[Tensor, "V 4 4"]:
    """Camera-to-world of cameras that face the origin; azimuth 0 stands at negative z and looks along z."""
    poses = []
    for azimuth in map(math.radians, azimuths_deg):
        flat, rise = math.cos(math.radians(elevation_deg)), math.sin(math.radians(elevation_deg))
        away = torch.tensor([flat * math.sin(azimuth), -rise, -flat * math.cos(azimuth)], dtype=torch.float64)
        right = torch.tensor([math.cos(azimuth), 0.0, math.sin(azimuth)], dtype=torch.float64)
        pose = torch.eye(4, dtype=torch.float64)
        pose[:3, :3] = torch.stack([right, torch.linalg.cross(-away, right), -away], 1)
        pose[:3, 3] = distance * away
        poses.append(pose)
    return torch.stack(poses)


def _lens(focal: float, side: int, views: int) -> Float[Tensor, "V 1 3 3"]:
    K = torch.tensor([[focal, 0, side / 2], [0, focal, side / 2], [0, 0, 1]])
    return K.expand(views, 1, 3, 3)


def _object(rng: np.random.Generator, rig: Rig) -> Scene:
    """One object at `_HEIGHT` above the ground."""
    scene = detailed_scene(rng, 1, _STYLE)
    pieces = len(scene.kind)
    centre = torch.from_numpy(rng.normal(0, 0.3, (pieces, 3))).float()
    centre[0] = 0
    # the box of a rotated piece is at most that of its half sizes turned by |rotation|
    reach = (scene.rotation[0].abs() @ scene.half_size[..., None])[..., 0]
    low, high = (centre - reach).amin(0), (centre + reach).amax(0)
    extent = (high - low).norm() if rig == "wonder3d" else (high - low).max()
    position = (centre - (low + high) / 2) / extent
    position[:, 1] -= _HEIGHT
    textures = replace(scene.textures, frequency=scene.textures.frequency * extent)
    return replace(
        scene, half_size=scene.half_size / extent, position=position[None], textures=textures, dome_radius=30.0
    )
