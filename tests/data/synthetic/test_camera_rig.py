import numpy as np
import pytest
import torch

from mvtrack.data.synthetic.camera_rig import RigStyle, amount_of, sample_cameras
from mvtrack.data.synthetic.scene import SceneStyle, sample_scene
from mvtrack.data.synthetic.test_scenes import CaseSpec, case_specs, render_case, render_still_scene
from mvtrack.geometry.camera import relative_pose
from mvtrack.geometry.presets import PRESETS
from mvtrack.geometry.trajectory import CameraPath
from mvtrack.geometry.warp import covisible, depth_warp
from mvtrack.metrics.image import psnr

T, SIZE = 5, (24, 32)


def rigs(count: int = 40, **style):
    return [sample_cameras(np.random.default_rng(s), 3, T, SIZE, RigStyle(**style)) for s in range(count)]


def test_rig_cameras_are_rigid_and_above_ground():
    for camera in rigs():
        rotation = camera.c2w[..., :3, :3]
        torch.testing.assert_close(rotation @ rotation.mT, torch.eye(3).expand(3, T, 3, 3), atol=1e-5, rtol=0)
        assert (torch.linalg.det(rotation) > 0.99).all()
        assert (camera.c2w[0, 0, 1, 3] <= -0.3).all()  # y points down


def test_paths_that_lead_below_the_ground_are_drawn_anew():
    wide = {"max_angle_deg": 60.0}
    assert any((camera.c2w[..., 1, 3] > 0).any() for camera in rigs(**wide))
    for camera in rigs(**wide, above_ground=True):
        assert (camera.c2w[..., 1, 3] <= -0.0999).all()


def test_rig_follows_style():
    moving = [float((c.c2w[0, -1] - c.c2w[0, 0]).abs().max()) > 1e-6 for c in rigs(moving_reference=1.0)]
    still = [float((c.c2w[0, -1] - c.c2w[0, 0]).abs().max()) > 1e-6 for c in rigs(moving_reference=0.0)]
    assert all(moving)
    assert not any(still)
    for camera in rigs(10, rotation_only=1.0):
        torch.testing.assert_close(camera.c2w[1, :, :3, 3], camera.c2w[0, :, :3, 3], atol=1e-5, rtol=0)
    focal = [float(c.K[0, 0, 0, 0]) / SIZE[1] for c in rigs()]
    assert min(focal) >= 0.8
    assert max(focal) <= 1.6
    assert max(focal) - min(focal) > 0.4


def test_single_frame_cameras_stand_apart():
    for seed in range(20):
        camera = sample_cameras(np.random.default_rng(seed), 4, 1, SIZE, RigStyle())
        relative = relative_pose(camera.c2w[:1], camera.c2w[1:])[:, 0]
        zoom = (camera.K[1:, 0, 0, 0] / camera.K[0, 0, 0, 0]).log().abs()
        moved = (relative - torch.eye(4)).flatten(1).abs().amax(1)
        assert (moved + zoom > 0.02).all()


def test_still_scenes_do_not_move():
    clip = render_still_scene(3, num_views=2, num_frames=5, size=(24, 32))
    again = render_still_scene(3, num_views=2, num_frames=5, size=(24, 32))
    assert torch.equal(clip.video, again.video)
    assert not torch.equal(clip.video, render_still_scene(4, 2, 5, (24, 32)).video)
    seen = covisible(clip.depth[1], clip.depth[0, :1].expand(5, -1, -1), clip.camera[1], clip.camera[0, :1])
    warped = depth_warp(
        clip.video[0, :1].expand(5, -1, -1, -1), clip.depth[1], clip.depth[0, :1].expand(5, -1, -1), clip.camera[1],
        clip.camera[0, :1],
    )  # fmt: skip
    assert seen.flatten(1).float().mean(1).min() > 0.2
    assert psnr(warped, clip.video[1], seen) > 25  # the first frame of one view explains all frames of the other


@pytest.mark.parametrize("preset", PRESETS)
def test_amounts_are_angles_from_pivot(preset):
    pose = CameraPath(preset, amount_of(preset, 15.0, 4.0), pivot_m=4.0).poses(3)[-1]
    to_pivot = torch.tensor([0.0, 0, 4]).double() - pose[:3, 3]
    turn = torch.rad2deg(torch.acos((to_pivot[2] / to_pivot.norm()).clamp(-1, 1)))
    if preset.startswith(("pan", "tilt")):
        assert pose[:3, 3].abs().max() == 0
    elif preset.startswith("zoom"):
        assert 0.5 < pose[2, 3].abs() < 2.0
    else:
        assert 8 < turn < 16


def test_objects_move_unless_static():
    walked = []
    for seed in range(20):
        scene = sample_scene(np.random.default_rng(seed), T, SceneStyle())
        walked.append(float((scene.position[-1] - scene.position[0]).norm(dim=-1).max()))
        still = sample_scene(np.random.default_rng(seed), T, SceneStyle(static=True))
        assert (still.position == still.position[:1]).all()
        assert (still.rotation == still.rotation[:1]).all()
    assert np.median(walked) > 0.25


def test_pinned_cases_are_balanced():
    specs = case_specs(20, 0, SIZE, T)
    assert [s.preset for s in specs[:10]] == list(PRESETS)
    assert sum(s.start == 0 for s in specs) == 10
    assert all(10 <= s.angle_deg <= 25 for s in specs)
    case, again = render_case(specs[3]), render_case(specs[3])
    assert torch.equal(case.clip.video, again.clip.video)


def test_mirrored_camera_moves_oppositely():
    case = render_case(CaseSpec(4, "pan_right", 14.0, 0.0, SIZE, T))
    true = relative_pose(case.clip.camera.c2w[0, 0], case.clip.camera.c2w[1, -1])
    mirrored = relative_pose(case.clip.camera.c2w[0, 0], case.mirrored_camera.c2w[1, -1])
    assert true[0, 2] > 0.2
    torch.testing.assert_close(mirrored[:3, :3], true[:3, :3].mT, atol=1e-5, rtol=0)
    torch.testing.assert_close(case.mirrored_camera.c2w[0], case.clip.camera.c2w[0])
