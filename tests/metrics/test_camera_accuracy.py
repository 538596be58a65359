import math

import pytest
import torch

from mvtrack.geometry.keyframe_path import rotation_matrix
from mvtrack.geometry.similarity import Similarity
from mvtrack.geometry.trajectory import CameraPath
from mvtrack.metrics.camera_accuracy import camera_accuracy, rotation_angle

T = 13
CASES = [
    "arc_noisy", "arc_scaled_moved_world", "both_static", "dolly_noisy", "half_turn", "identical", "pan_pred_jitters",
    "pan_static_translation", "random_unrelated", "rescaled_only",
]  # fmt: skip


def path(preset: str = "arc_left", amount: float | None = None) -> torch.Tensor:
    return CameraPath(preset, amount).poses(T)


@pytest.mark.parametrize("case", CASES)
def test_golden_cami2v(golden_numbers, case):
    golden = golden_numbers("camera_metrics")
    estimated, true = (torch.from_numpy(golden[f"{case}.{name}_c2w"]) for name in ("pred", "gt"))
    own = camera_accuracy(estimated, true, "self_max", least_extent=0.0)
    rot = torch.deg2rad(own.rotation_deg)
    torch.testing.assert_close(rot, torch.from_numpy(golden[f"{case}.rot_err_per_frame_rad"]), rtol=1e-6, atol=1e-6)
    for ours, name in ((own.translation, "trans_err_rel_per_frame"), (own.combined, "cammc_rel_per_frame")):
        torch.testing.assert_close(ours, torch.from_numpy(golden[f"{case}.{name}"]), rtol=1e-6, atol=1e-6)
    sums = own.sums()
    absolute = camera_accuracy(estimated, true, "gt_max", least_extent=0.0).sums()
    assert sums["RotErr"] == pytest.approx(float(golden[f"{case}.RotErr_sum_rad"]), rel=1e-6, abs=1e-6)
    for name in ("TransErr", "CamMC"):
        assert sums[name] == pytest.approx(float(golden[f"{case}.{name}_rel_sum"]), rel=1e-6, abs=1e-6)
        assert absolute[name] == pytest.approx(float(golden[f"{case}.{name}_abs_sum"]), rel=1e-6, abs=1e-6)


@pytest.mark.parametrize("case", CASES)
def test_golden_redirector(golden_numbers, case):
    golden = golden_numbers("camera_metrics")
    estimated, true = (torch.from_numpy(golden[f"{case}.{name}_c2w"]) for name in ("pred", "gt"))
    expected = float(golden[f"{case}.redirector_trans"])
    if math.isnan(expected) or case == "pan_pred_jitters":  # centres in one place: there is nothing to align to
        assert math.isnan(camera_accuracy(estimated, true, "umeyama").means()["mTransErr"])
        return
    accuracy = camera_accuracy(estimated, true, "umeyama", least_extent=0.0)
    assert accuracy.means()["mTransErr"] == pytest.approx(expected, rel=1e-6, abs=1e-9)


def test_frames_that_are_not_compared_fix_world_and_unit():
    """A camera that stands aside, estimated with a path beside it: alone it would say nothing."""
    true = torch.cat([path(), path("pan_right", 30.0)[-1:].expand(T, 4, 4)])
    true[T:, :3, 3] = torch.tensor([1.0, 0, 0]).double()
    estimated, of_video = true.clone(), torch.arange(2 * T) >= T
    estimated[T:, :3, 3] = torch.tensor([0.0, 0, 0]).double()
    estimated[:, :3, 3] *= 0.3
    own = camera_accuracy(estimated[T:], true[T:])
    assert own.rotation_only
    assert own.means()["mRotErr"] < 1e-6
    found = torch.ones(2 * T, dtype=torch.bool)
    found[[2, T + 1]] = False
    for scale in ("self_max", "gt_lsq"):
        joint = camera_accuracy(estimated, true, scale, found, compared=of_video)
        assert joint.translation.shape == (T - 1,)
        assert joint.coverage == pytest.approx((T - 1) / T)
        # off by 1 of the path's reach; least squares see only the part that is right
        assert joint.means()["mTransErr"] == pytest.approx(1 / float(true[:, :3, 3].norm(dim=-1).max()), rel=1e-6)
    with pytest.raises(ValueError, match="none of the 13 frames to compare has a pose"):
        camera_accuracy(estimated, true, found=~of_video, compared=of_video)


@pytest.mark.parametrize("scale", ["self_max", "gt_lsq", "umeyama"])
def test_the_unit_and_the_world_of_an_estimate_do_not_matter(scale):
    world = torch.eye(4).double()
    world[:3, :3] = rotation_matrix(torch.tensor([0.3, -0.5, 0.7]).double())
    world[:3, 3] = torch.tensor([3.0, 5.0, -7.0])
    moved = path()
    moved[:, :3, 3] *= 0.37
    accuracy = camera_accuracy(world @ moved, path(), scale)
    assert max(accuracy.means().values()) < 1e-7
    assert accuracy.coverage == 1
    assert not accuracy.rotation_only


def test_errors_by_hand():
    """A dolly that turns by 3 degrees more in every frame but the first and ends 10 % too far to the side."""
    true = path("zoom_in", 2.0)
    turn = rotation_matrix(torch.tensor([0.0, math.radians(3), 0.0]).double())
    estimated = true.clone()
    estimated[1:, :3, :3] = turn @ true[1:, :3, :3]
    estimated[-1, 0, 3] = 0.2
    accuracy = camera_accuracy(estimated, true, "gt_max")
    assert accuracy.rotation_deg[0] == 0
    assert accuracy.rotation_deg[1:].tolist() == pytest.approx([3.0] * (T - 1), abs=1e-6)
    assert accuracy.translation[-1] == pytest.approx(0.1)
    turned = (2 * (1 - math.cos(math.radians(3)))) ** 0.5 * 2**0.5  # Frobenius norm of R - 1
    assert accuracy.combined[-1] == pytest.approx(math.hypot(turned, 0.1))
    assert accuracy.sums()["RotErr"] == pytest.approx(math.radians(3) * (T - 1))
    assert accuracy.means()["mRotErr"] == pytest.approx(3 * (T - 1) / T)


def test_a_path_that_only_turns_has_no_translation_score(generator):
    true, estimated = path("pan_left"), path("pan_left")
    estimated[:, :3, 3] = 1e-4 * torch.randn(T, 3, generator=generator)
    accuracy = camera_accuracy(estimated, true)
    assert accuracy.rotation_only
    means = accuracy.means()
    assert math.isnan(means["mTransErr"])
    assert math.isnan(means["mCamMC"])
    assert means["mRotErr"] < 1e-5


def test_the_opposite_way_is_not_turned_round():
    opposite = camera_accuracy(path("zoom_out", 2.0), path("zoom_in", 2.0), "gt_lsq")
    assert opposite.translation[-1] == pytest.approx(1.0)
    assert camera_accuracy(path("zoom_out", 2.0), path("zoom_in", 2.0)).translation[-1] == pytest.approx(2.0)


def test_missing_frames_are_left_out_and_counted():
    estimated, found = path("arc_left"), torch.ones(T, dtype=torch.bool)
    found[[0, 5]] = False
    estimated[[0, 5]] = torch.nan
    accuracy = camera_accuracy(estimated, path("arc_left"), found=found)
    assert len(accuracy.rotation_deg) == T - 2
    assert accuracy.coverage == pytest.approx((T - 2) / T)
    assert accuracy.means()["mCamMC"] < 1e-7
    assert math.isnan(accuracy.sums()["RotErr"])


def test_bad_paths(unchecked):
    with pytest.raises(ValueError, match="differ in number: 12 and 13"):
        camera_accuracy(path()[1:], path())
    with pytest.raises(ValueError, match="at least 2 frames with a pose, got 1 of 13"):
        camera_accuracy(path(), path(), found=torch.arange(T) == 3)
    with pytest.raises(ValueError, match="unknown scale 'max'"):
        camera_accuracy(path(), path(), "max")
    broken = path()
    broken[4, 1, 2] = torch.nan
    with pytest.raises(ValueError, match="estimated camera of frame 4 holds NaN"):
        camera_accuracy(broken, path())


def test_angles_of_rotations():
    for degrees in (0.0, 1e-6, 0.1, 90.0, 179.9999, 180.0):
        turn = rotation_matrix(torch.tensor([0.0, 0.6, 0.8]).double() * math.radians(degrees))
        found = float(torch.rad2deg(rotation_angle(turn, torch.eye(3).double())))
        assert found == pytest.approx(degrees, abs=1e-5, rel=1e-6)


def test_similarity_is_found_back(generator):
    points = torch.randn(7, 3, generator=generator, dtype=torch.float64)
    rotation = rotation_matrix(torch.tensor([0.2, -1.1, 0.4]).double())
    moved = 2.5 * points @ rotation.mT + torch.tensor([1.0, -2.0, 3.0]).double()
    found = Similarity.between(points, moved)
    torch.testing.assert_close(found.apply(points), moved)
    torch.testing.assert_close(found.rotation, rotation)
    assert float(found.scale) == pytest.approx(2.5)
    mirrored = points * torch.tensor([-1.0, 1, 1]).double()
    assert float(torch.linalg.det(Similarity.between(points, mirrored).rotation)) == pytest.approx(1)
