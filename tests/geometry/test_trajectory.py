import numpy as np
import pytest
import torch

from mvtrack.geometry.presets import PRESETS, SPEEDS
from mvtrack.geometry.trajectory import CameraPath


@pytest.mark.shared
def test_golden_presets_equal_recammaster(shared_numbers):
    """The file stores rotations with 6 digits and centimetres with 2 decimals, hence 1e-6 and 1e-4 m."""
    golden = shared_numbers("golden/backbones/cameras.npz")["rd_infer_rel_81"]
    for name, theirs in zip(PRESETS, golden, strict=True):
        ours = CameraPath(name).poses(81).numpy()
        np.testing.assert_allclose(ours[:, :3, :3], theirs[:, :3, :3], atol=1e-6, err_msg=name)
        np.testing.assert_allclose(ours[:, :3, 3], theirs[:, :3, 3], atol=1e-4, err_msg=name)


@pytest.mark.shared
def test_golden_presets_at_latent_frames(shared_numbers):
    golden = shared_numbers("golden/backbones/cameras.npz")["rc_infer_21"].reshape(10, 21, 3, 4)
    for name, theirs in zip(PRESETS, golden, strict=True):
        np.testing.assert_allclose(CameraPath(name).poses(21)[:, :3].numpy(), theirs, atol=1e-4, err_msg=name)


@pytest.mark.parametrize("name", PRESETS)
def test_preset_paths_are_rigid_and_start_at_identity(name):
    pose = CameraPath(name, speed="ease").poses(13)
    rotation = pose[:, :3, :3]
    torch.testing.assert_close(rotation @ rotation.mT, torch.eye(3).double().expand(13, 3, 3))
    torch.testing.assert_close(torch.linalg.det(rotation), torch.ones(13).double())
    torch.testing.assert_close(pose[0], torch.eye(4).double(), atol=1e-12, rtol=0)


@pytest.mark.parametrize(
    ("name", "index", "sign"),
    [("pan_right", (0, 2), 1), ("tilt_up", (1, 2), -1), ("zoom_in", (2, 3), 1), ("translate_up", (1, 3), -1),
     ("arc_left", (0, 3), -1)],
)  # fmt: skip
def test_preset_directions_follow_opencv_axes(name, index, sign):
    """Right is +x, up is -y, in is +z: the forward axis (column 2) or the centre (column 3) moves there."""
    end = CameraPath(name).poses(3)[-1]
    assert sign * end[index] > 0.1
    opposite = CameraPath(name).mirrored().poses(3)[-1]
    assert sign * opposite[index] < -0.1


@pytest.mark.parametrize("name", ["translate_up", "translate_down", "arc_left", "arc_right"])
def test_look_at_centres_pivot(name):
    pose = CameraPath(name, amount=1.0 if "translate" in name else 24.0, pivot_m=3.0).poses(7)
    to_pivot = torch.tensor([0.0, 0, 3]).double() - pose[:, :3, 3]
    forward = pose[:, :3, 2]
    torch.testing.assert_close(forward, to_pivot / to_pivot.norm(dim=-1, keepdim=True))
    free = CameraPath(name, look_at=False).poses(7)
    torch.testing.assert_close(free[:, :3, :3], torch.eye(3).double().expand(7, 3, 3))


def test_preset_amounts_are_reached():
    assert torch.rad2deg(torch.atan2(*CameraPath("pan_right", amount=13.0).poses(5)[-1, [0, 2], 2])) == pytest.approx(
        13
    )
    assert CameraPath("zoom_in", amount=0.7).poses(5)[-1, 2, 3] == pytest.approx(0.7)
    end = CameraPath("arc_right", amount=30.0, pivot_m=2.0).poses(5)[-1, :3, 3]
    assert (end - torch.tensor([0.0, 0, 2])).norm() == pytest.approx(2.0)  # on the circle at the end


@pytest.mark.parametrize("speed", SPEEDS)
def test_speed_curves_keep_ends(speed):
    pose = CameraPath("zoom_in", amount=1.0, speed=speed, start=0.25).poses(9)
    assert pose[0, 2, 3] == pytest.approx(0.25)
    assert pose[-1, 2, 3] == pytest.approx(1.0)
    assert (pose[1:, 2, 3] > pose[:-1, 2, 3]).all()


def test_preset_path_is_independent_of_length():
    long, short = CameraPath("arc_left").poses(81), CameraPath("arc_left").poses(21)
    torch.testing.assert_close(long[::4], short)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"preset": "arc_lef"}, "did you mean 'arc_left'"),
        ({"preset": "pan_left", "speed": "eese"}, "did you mean 'ease'"),
        ({"preset": "pan_left", "amount": float("nan")}, "finite"),
        ({"preset": "arc_left", "amount": 120.0}, "less than 90 degrees"),
        ({"preset": "zoom_in", "pivot_m": 0.0}, "pivot_m must be positive"),
        ({"preset": "zoom_in", "start": 1.5}, r"start must lie in \[0, 1\]"),
    ],
)
def test_invalid_paths_raise(arguments, message):
    with pytest.raises(ValueError, match=message):
        CameraPath(**arguments)


def test_zero_frames_raise():
    with pytest.raises(ValueError, match="at least 1"):
        CameraPath("pan_left").poses(0)
