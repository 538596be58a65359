import numpy as np
import pytest
import torch

from mvtrack.geometry.camera import Camera, intrinsics_from_fov
from mvtrack.geometry.path_language import parse_path
from mvtrack.inference.camera_estimation.matches import MAX_ERROR_PX, PairMatches, match_errors, mean_misfit

T, SIZE = 5, (120, 160)


def camera(path: str) -> Camera:
    K = intrinsics_from_fov(55.0, SIZE).double().expand(T, 3, 3)
    return Camera(parse_path(path).poses(T), K, SIZE)


def test_true_cameras_explain_their_matches(exact_matches):
    true, every = camera("arc_left 20"), torch.ones(T, dtype=torch.bool)
    matches = exact_matches(true.c2w)
    assert mean_misfit(match_errors(matches, true, every)) < 1e-9
    other = mean_misfit(match_errors(matches, camera("arc_right 20"), every))
    assert other > 0.5
    scaled = Camera(true.scaled(3.7).c2w, true.K, SIZE)
    assert mean_misfit(match_errors(matches, scaled, every)) < 1e-9


def test_frames_without_a_pose_count_in_full(exact_matches):
    true = camera("arc_left 20")
    matches, found = exact_matches(true.c2w), torch.tensor([True, True, False, True, True])
    errors = match_errors(matches, true, found)
    of_missing = ((matches.first == 2) | (matches.second == 2))[matches.of_pair]
    assert torch.equal(errors.isnan(), of_missing)
    assert mean_misfit(errors) == pytest.approx(MAX_ERROR_PX * float(of_missing.double().mean()))
    assert mean_misfit(errors[:0]) == MAX_ERROR_PX


def test_large_pairs_are_thinned_evenly():
    counts = np.array([7, 3, 20])
    xy = np.concatenate([np.arange(30)[:, None] * np.ones(4)], 0).astype(float)
    pairs = np.array([[0, 1], [1, 2], [0, 2]])
    matches = PairMatches.of_arrays({"pairs": pairs, "counts": counts, "xy": xy}, 7)
    assert torch.bincount(matches.of_pair).tolist() == [7, 3, 7]
    assert matches.xy_first[:, 0].tolist() == [*range(10), *range(10, 30, 3)]
    assert torch.equal(matches.xy_first, matches.xy_second)


def test_frames_that_hang_together():
    first, second = torch.tensor([0, 1, 4]), torch.tensor([1, 3, 5])
    xy = torch.zeros(6, 2).double()
    matches = PairMatches(first, second, torch.tensor([0, 0, 0, 1, 1, 2]), xy, xy)
    assert matches.linked(7).tolist() == [True, True, False, True, False, False, False]
    assert not PairMatches(first[:0], second[:0], first[:0], xy[:0], xy[:0]).linked(3).any()
