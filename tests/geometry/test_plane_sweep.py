import numpy as np
import pytest
import torch

from mvtrack.data.synthetic.camera_rig import base_pose
from mvtrack.data.synthetic.renderer import render
from mvtrack.data.synthetic.scene import SceneStyle, sample_scene
from mvtrack.geometry.camera import Camera, intrinsics_from_fov
from mvtrack.geometry.plane_sweep import plane_sweep_depth
from mvtrack.geometry.trajectory import CameraPath

T, SIZE = 5, (34, 52)


@pytest.fixture(scope="module")
def still_scene():
    """A static scene seen by a camera that moves upwards, with its true depth."""
    rng = np.random.default_rng(3)
    scene = sample_scene(rng, T, SceneStyle(static=True))
    K = intrinsics_from_fov(50.0, SIZE)
    first, pivot = base_pose(rng, float(K[0, 0] / SIZE[1]))
    path = CameraPath("translate_up", 0.5, pivot_m=pivot)
    camera = Camera((first @ path.poses(T)).float()[None], K.expand(1, T, 3, 3), SIZE, True)
    rendered = render(scene, camera)
    return rendered.video[0].float() / 127.5 - 1, camera[0], rendered.depth[0]


def test_plane_sweep_finds_static_depth(still_scene):
    video, camera, depth = still_scene
    error = (plane_sweep_depth(video, camera) / depth).log().abs()
    guess = (depth.median() / depth).log().abs()  # one depth everywhere
    assert error.median() < 0.06
    assert error.median() < 0.4 * guess.median()


def test_plane_sweep_scales_with_cameras(still_scene):
    video, camera, _ = still_scene
    once = plane_sweep_depth(video, camera, planes=11)
    torch.testing.assert_close(plane_sweep_depth(video, camera.scaled(3.0), planes=11), 3 * once, rtol=1e-2, atol=0)


def test_plane_sweep_without_parallax_raises(still_scene):
    video, camera, _ = still_scene
    with pytest.raises(ValueError, match="depth needs parallax"):
        plane_sweep_depth(video, camera[[0] * T])
