import pytest
import torch

from mvtrack.geometry.camera import intrinsics_from_fov, relative_pose
from mvtrack.geometry.path_language import parse_path
from mvtrack.inference.camera_estimation.rotation_only import fit_turning, fit_turning_and_focal, largest_turn_deg
from mvtrack.metrics.camera_accuracy import camera_accuracy

T, SIZE = 7, (120, 160)
PATH = "pan_left 20 + tilt_up 10 + roll_right 6"


def lenses(fov: float) -> torch.Tensor:
    return intrinsics_from_fov(fov, SIZE).double().repeat(T, 1, 1)


def error_deg(rotation: torch.Tensor, true: torch.Tensor) -> float:
    c2w = torch.eye(4).double().repeat(T, 1, 1)
    c2w[:, :3, :3] = rotation
    return float(camera_accuracy(c2w, true).rotation_deg.max())


def test_turns_are_found_exactly(exact_matches):
    true = parse_path(PATH).poses(T)
    turning = fit_turning(exact_matches(true), lenses(55.0))
    assert error_deg(turning.rotation, true) < 1e-5
    assert turning.misfit < 1e-5
    assert turning.found.all()
    assert turning.largest_deg == pytest.approx(largest_turn_deg(relative_pose(true[0], true)[:, :3, :3]), abs=1e-4)


def test_a_third_of_wrong_matches_does_little(exact_matches):
    true = parse_path(PATH).poses(T)
    turning = fit_turning(exact_matches(true, spoilt=0.33), lenses(55.0))
    assert error_deg(turning.rotation, true) < 0.05
    assert 0.4 < turning.misfit < 0.8


def test_parallax_does_not_pass_for_a_turn(exact_matches):
    assert fit_turning(exact_matches(parse_path("arc_left 15").poses(T)), lenses(55.0)).misfit > 1.0


def test_the_focal_length_of_a_turning_camera(exact_matches):
    true = parse_path(PATH).poses(T)
    turning, K = fit_turning_and_focal(exact_matches(true, fov=62.0), lenses(45.0))
    assert float(K[0, 0, 0]) == pytest.approx(float(lenses(62.0)[0, 0, 0]), rel=0.01)
    assert error_deg(turning.rotation, true) < 0.3
    assert turning.misfit < fit_turning(exact_matches(true, fov=62.0), lenses(45.0)).misfit


def test_frames_without_matches_are_not_found(exact_matches):
    true = parse_path(PATH).poses(T)
    matches = exact_matches(true)
    keep = ((matches.first != 3) & (matches.second != 3))[matches.of_pair]
    lonely = type(matches)(
        matches.first, matches.second, matches.of_pair[keep], matches.xy_first[keep], matches.xy_second[keep]
    )
    turning = fit_turning(lonely, lenses(55.0))
    assert turning.rotation.isfinite().all()
    assert turning.found.tolist() == [True, True, True, False, True, True, True]
