"""Scenes of this project's renderer, to be written in a dataset's layout, and what must hold once they are read."""

from dataclasses import dataclass
from types import SimpleNamespace

import numpy as np
import torch

from mvtrack.data.public.layout import MultiViewScene
from mvtrack.data.synthetic.camera_rig import RigStyle, sample_cameras
from mvtrack.data.synthetic.point_tracks import sample_tracks
from mvtrack.data.synthetic.renderer import render
from mvtrack.data.synthetic.scene import Scene, SceneStyle, sample_scene
from mvtrack.geometry.camera import Camera, pixel_grid, project, unproject
from tracking_head import Tracks

# Ours: x right, y down, z forward. A world whose z points up, as Blender's: x right, y forward, z up.
TO_Z_UP = torch.tensor([[1.0, 0, 0], [0, 0, 1], [0, -1, 0]], dtype=torch.float64)


@dataclass(frozen=True)
class Truth:
    """A rendered scene: video (V, T, 3, H, W) uint8, depth (V, T, H, W), world (T, N, 3)."""

    video: torch.Tensor
    depth: torch.Tensor
    ids: torch.Tensor
    camera: Camera
    tracks: Tracks
    world: torch.Tensor
    rigid: Scene

    @property
    def distance(self) -> torch.Tensor:
        """Euclidean, from each camera's centre."""
        grid = pixel_grid(self.camera.size).double()
        K = self.camera.K.double()[..., None, None, :, :]
        x, y = ((grid[..., i] - K[..., i, 2]) / K[..., i, i] for i in (0, 1))
        return (self.depth.double() * (1 + x**2 + y**2).sqrt()).float()

    def turned(self, change: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """c2w (V, T, 4, 4) and world points in another world: X' = change X."""
        c2w = self.camera.c2w.double().clone()
        c2w[..., :3, :] = change @ c2w[..., :3, :]
        return c2w, self.world.double() @ change.T

    def scene(self, change: torch.Tensor) -> SimpleNamespace:
        """As a reader should give it, in another world."""
        c2w, K = self.turned(change)[0], self.camera.K.double()
        views = [
            SimpleNamespace(
                camera=Camera(c2w[v], K[v], self.camera.size),
                depth=lambda n, v=v: self.depth[v, :n],
                video=SimpleNamespace(size=self.camera.size),
            )
            for v in range(len(c2w))
        ]
        return SimpleNamespace(views=views)


def synthesise(seed=3, views=3, frames=5, size=(38, 58), points=11, static=False, square_lens=None) -> Truth:
    """A scene whose principal point is centred. square_lens: focal length over width of all cameras."""
    rng = np.random.default_rng(seed)
    scene = sample_scene(rng, frames, SceneStyle(static=static))
    camera = sample_cameras(rng, views, frames, size, RigStyle(max_angle_deg=20.0, above_ground=True))
    focal = (square_lens or 0.9) * size[1]
    K = torch.tensor([[focal, 0, size[1] / 2], [0, focal, size[0] / 2], [0, 0, 1]]).expand(views, frames, 3, 3)
    camera = Camera(camera.c2w, K, size, True)
    made = render(scene, camera)
    tracks, world, _ = sample_tracks(scene, camera, made, points, rng)
    return Truth(made.video, made.depth, made.ids, camera, tracks, world, scene)


def reprojection_px(cameras: list[Camera], world: torch.Tensor, tracks: Tracks) -> float:
    """Largest distance, over the cameras (T,) of all views, of projected points from their tracks where visible."""
    worst = 0.0
    for v, camera in enumerate(cameras):
        xy, _ = project(world.double(), camera.to(dtype=torch.float64))
        error = (xy - tracks.xy[v].double()).norm(dim=-1)
        worst = max(worst, float(error[tracks.visible[v]].max()))
    return worst


def scene_error_px(scene: MultiViewScene, world: torch.Tensor, tracks: Tracks) -> float:
    """The same of a scene that was read."""
    return reprojection_px([view.camera for view in scene.views], world, tracks)


def depth_agreement(scene: MultiViewScene, first: int = 0, second: int = 1) -> float:
    """Share of a view's pixels whose point lies, in the other view's picture, at that view's depth to 1 %."""
    agree, count = 0, 0
    a, b = scene.views[first], scene.views[second]
    frames = a.camera.shape[0]
    depth_a, depth_b = a.depth(frames).double(), b.depth(frames).double()
    height, width = b.video.size
    for t in range(frames):
        flat = depth_a[t].flatten()
        points = unproject(pixel_grid(a.video.size).double().flatten(0, 1), flat, a.camera[t])
        xy, z = project(points, b.camera[t])
        column, row = xy[:, 0].floor().long(), xy[:, 1].floor().long()
        inside = (column >= 0) & (column < width) & (row >= 0) & (row < height) & (z > 0) & (flat > 0)
        there = depth_b[t][row[inside], column[inside]]
        agree += int(((z[inside] - there).abs() < 0.01 * there).sum())
        count += int(inside.sum())
    return agree / count
