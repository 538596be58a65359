"""Playing a path at another length, against ReDirector's own numbers and by hand."""

import numpy as np
import pytest
import torch

from mvtrack.geometry.pose_files.resampling import resample_path
from mvtrack.geometry.rotation import rotation_vector
from mvtrack.geometry.trajectory import CameraPath


@pytest.mark.parametrize(
    ("source", "resampled", "frames", "speed"),
    [
        pytest.param("rd_infer_rel_81", "rd_resampled_81_speed1.0", 81, 1.0, marks=pytest.mark.shared),
        pytest.param("rd_infer_rel_81", "rd_resampled_49_speed0.5", 49, 0.5, marks=pytest.mark.shared),
        ("syn_rd_infer_rel_81", "syn_rd_resampled_49_speed0.5", 49, 0.5),
    ],
)
def test_golden_resampled_paths(golden_numbers, shared_numbers, source, resampled, frames, speed):
    of_presets = source.startswith("rd_")
    golden = shared_numbers("golden/backbones/cameras.npz") if of_presets else golden_numbers("cameras")
    for path, theirs in zip(golden[source], golden[resampled], strict=True):
        ours = resample_path(torch.from_numpy(path), frames, speed)
        np.testing.assert_allclose(ours, theirs, atol=1e-9, rtol=0)


def test_a_turn_about_one_axis_keeps_its_rate():
    """A pan of 20 degrees in 80 steps, played in 10 steps at double speed: each step turns half a degree."""
    path = CameraPath("pan_right", amount=20.0).poses(81)
    turned = rotation_vector(resample_path(path, 11, 2.0)[:, :3, :3])
    torch.testing.assert_close(torch.rad2deg(turned[:, 1]), torch.arange(11).double() * 0.5)


def test_a_straight_path_is_straight():
    path = CameraPath("zoom_in", amount=4.0).poses(9)
    centres = resample_path(path, 5)[:, :3, 3]
    torch.testing.assert_close(centres[:, 2], torch.arange(5).double() * 0.5)
    assert centres[:, :2].abs().max() == 0


def test_too_short_paths_are_refused():
    with pytest.raises(ValueError, match="at least 3 poses and 2 frames, got 2 and 5"):
        resample_path(torch.eye(4).repeat(2, 1, 1), 5)
