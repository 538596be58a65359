import math

import pytest
import torch

from mvtrack.geometry.keyframe_path import PosePath, interpolate_poses, resample_poses, warn_of_jumps
from mvtrack.geometry.rotation import rotation_matrix, rotation_vector
from mvtrack.geometry.trajectory import CameraPath

T = 11


@pytest.mark.parametrize("angle", [0.0, 1e-9, 1e-5, 0.3, 2.0, math.pi - 1e-5, math.pi - 1e-9])
def test_rotation_vectors_round_trip(angle):
    g = torch.Generator().manual_seed(int(angle * 100))
    axes = torch.nn.functional.normalize(torch.randn(7, 3, generator=g, dtype=torch.float64), dim=-1)
    rotation = rotation_matrix(angle * axes)
    torch.testing.assert_close(rotation @ rotation.mT, torch.eye(3).double().expand(7, 3, 3))
    torch.testing.assert_close(rotation_matrix(rotation_vector(rotation)), rotation, atol=1e-7, rtol=0)
    assert (rotation_vector(rotation).norm(dim=-1) - angle).abs().max() < 1e-6


def test_curve_passes_through_keys():
    keys = torch.stack([CameraPath(n).poses(3)[-1] for n in ("arc_left", "pan_right", "translate_up", "zoom_in")])
    times = torch.tensor([0.0, 0.2, 0.7, 1.0]).double()
    torch.testing.assert_close(interpolate_poses(keys, times, times), keys)
    fine = interpolate_poses(keys, times, torch.linspace(0, 1, 2001, dtype=torch.float64))
    speed = fine.diff(dim=0).norm(dim=(1, 2))
    assert speed.diff().abs().max() < 0.02 * speed.max()  # no corners
    flipped = interpolate_poses(keys.flip(0), 1 - times.flip(0), torch.linspace(0, 1, 2001, dtype=torch.float64))
    torch.testing.assert_close(flipped.flip(0)[:, :3, 3], fine[:, :3, 3])  # time may run backwards
    torch.testing.assert_close(flipped.flip(0), fine, atol=0.01, rtol=0)  # turns: velocities agree to first order


def test_curve_keeps_even_motion():
    poses = CameraPath("pan_left", 40.0).poses(5)
    torch.testing.assert_close(resample_poses(poses, T), CameraPath("pan_left", 40.0).poses(T))
    torch.testing.assert_close(resample_poses(poses[:1], 3), poses[:1].expand(3, 4, 4))
    assert resample_poses(poses, 5) is poses


def test_curve_is_equivariant_to_world_frame():
    keys, world = CameraPath("arc_left").poses(4), CameraPath("tilt_up", 33.0).poses(2)[1]
    world[:3, 3] = torch.tensor([3.0, -1, 2]).double()
    torch.testing.assert_close(resample_poses(world @ keys, T), world @ resample_poses(keys, T))


@pytest.mark.parametrize(
    ("times", "asked", "message"),
    [([0, 0, 1], [0.5], "ascend"), ([0, 1], [0.5], "as many"), ([0, 0.5, 1], [1.2], "outside the keyframes")],
)
def test_invalid_keyframes_raise(unchecked, times, asked, message):
    keys = torch.eye(4).double().expand(3, 4, 4)
    with pytest.raises(ValueError, match=message):
        interpolate_poses(keys, torch.tensor(times).double(), torch.tensor(asked).double())


def test_jumps_warn():
    smooth = CameraPath("arc_left").poses(49)
    assert warn_of_jumps(smooth, 4.0) == []
    jumpy = smooth.clone()
    jumpy[30:, 0, 3] += 2.0
    [warning] = warn_of_jumps(jumpy, 4.0)
    assert "moves by" in warning
    assert "between frames 29 and 30" in warning
    assert warn_of_jumps(jumpy, 400.0) == []  # far away, the same step is small
    [warning] = warn_of_jumps(CameraPath("pan_left", 90.0).poses(7), 4.0)
    assert "too fast" in warning


def test_pose_path_equals_its_poses():
    keys = CameraPath("zoom_in").poses(5)
    path = PosePath(keys, torch.tensor([1.0, 1, 1, 1, 2]))
    torch.testing.assert_close(path.poses(9), CameraPath("zoom_in").poses(9))
    assert path.lens(5).tolist() == [1, 1, 1, 1, 2]
    assert path.lens(9)[7].item() == pytest.approx(math.sqrt(2))


def test_pose_path_without_lenses_raises(unchecked):
    with pytest.raises(ValueError, match="K focal factors"):
        PosePath(torch.eye(4).double().expand(3, 4, 4), torch.ones(4))
