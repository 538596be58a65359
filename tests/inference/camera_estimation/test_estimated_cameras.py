from dataclasses import replace

import pytest
import torch

from mvtrack.geometry.camera import intrinsics_from_fov
from mvtrack.geometry.path_language import parse_path
from mvtrack.inference.camera_estimation.estimated_cameras import EstimatedCameras, cameras_from_poses

T, SIZE = 7, (90, 160)


@pytest.fixture
def some() -> EstimatedCameras:
    """An arc in some world, of which frames 0 and 3 were not found."""
    world = parse_path("pan_left 50; dolly_in 3").poses(2)[1]
    c2w = world @ parse_path("arc_left 20 + dolly_in 0.5").poses(T)
    K = intrinsics_from_fov(55.0, SIZE).double().repeat(T, 1, 1)
    found = torch.ones(T, dtype=torch.bool)
    found[[0, 3]] = False
    c2w[[0, 3]], K[[0, 3]] = torch.nan, torch.nan
    return replace(
        cameras_from_poses(c2w, K, SIZE, found, "by hand"),
        median_depth=8.0,
        misfit_px=0.25,
        doubt_deg=0.125,
        notes=("one", "two"),
        points=torch.arange(33).double().view(11, 3),
    )


def test_the_first_found_frame_is_the_world(some):
    path = parse_path("arc_left 20 + dolly_in 0.5").poses(T)
    torch.testing.assert_close(some.camera.c2w[1], torch.eye(4).double())
    torch.testing.assert_close(some.camera.c2w[5], torch.linalg.inv(path[1]) @ path[5])
    torch.testing.assert_close(some.camera.c2w[0], torch.eye(4).double())
    assert some.camera.K.isfinite().all()
    assert some.coverage == pytest.approx(5 / 7)
    assert some.fov_deg == pytest.approx(55.0, abs=1e-4)
    assert some.largest_turn_deg > 10


def test_arrays_bring_it_back(some):
    again = EstimatedCameras.of_arrays(some.arrays())
    for name in ("method", "rotation_only", "median_depth", "misfit_px", "doubt_deg", "notes"):
        assert getattr(again, name) == getattr(some, name)
    assert torch.equal(again.camera.c2w, some.camera.c2w)
    assert torch.equal(again.found, some.found)
    assert torch.equal(again.points, some.points)
    assert again.camera.size == SIZE
    bare = EstimatedCameras.of_arrays(replace(some, median_depth=None, misfit_px=None, notes=()).arrays())
    assert (bare.median_depth, bare.misfit_px, bare.notes) == (None, None, ())


def test_the_unit_is_the_subject_s_distance(some):
    scaled = some.scaled_to_depth(4.0)
    torch.testing.assert_close(scaled.camera.c2w[:, :3, 3], some.camera.c2w[:, :3, 3] / 2)
    torch.testing.assert_close(scaled.camera.c2w[:, :3, :3], some.camera.c2w[:, :3, :3])
    assert scaled.median_depth == 4.0
    torch.testing.assert_close(scaled.points, some.points / 2)
    with pytest.raises(ValueError, match="by hand come without depth"):
        replace(some, median_depth=None).scaled_to_depth(4.0)
    turns = replace(some, median_depth=None, rotation_only=True)
    assert turns.scaled_to_depth(4.0) is turns


def test_gaps_are_bridged_and_ends_held(some):
    filled = some.filled()
    torch.testing.assert_close(filled.c2w[some.found], some.camera.c2w[some.found])
    torch.testing.assert_close(filled.c2w[0], filled.c2w[1])
    between = filled.c2w[3, :3, 3] - (filled.c2w[2, :3, 3] + filled.c2w[4, :3, 3]) / 2
    assert float(between.norm()) < 0.1 * float((filled.c2w[2, :3, 3] - filled.c2w[4, :3, 3]).norm())


def test_some_frames_of_a_longer_video(some):
    longer = some.at_frames([0, 2, 4, 6, 8, 10, 12], 13)
    assert longer.found.nonzero()[:, 0].tolist() == [2, 4, 8, 10, 12]
    torch.testing.assert_close(longer.camera.c2w[8], some.camera.c2w[4])
    assert longer.filled().c2w.isfinite().all()
