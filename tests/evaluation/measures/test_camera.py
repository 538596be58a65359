import math
from dataclasses import replace

import pytest
import torch

from mvtrack.evaluation.interface import Inputs, Sample, Skipped
from mvtrack.evaluation.measures.camera import CameraMeasure
from mvtrack.evaluation.runner.scoring import checked
from mvtrack.geometry.camera import Camera, intrinsics_from_fov
from mvtrack.geometry.path_language import parse_path
from mvtrack.inference.camera_estimation.estimated_cameras import cameras_from_poses

T, SIZE = 7, (13, 17)
ERRORS = ("mRotErr", "mTransErr", "mCamMC", "RotErr", "TransErr", "CamMC")


def sample(asked: torch.Tensor, estimated: torch.Tensor, found=None, scale_known: bool = False) -> Sample:
    K = intrinsics_from_fov(50.0, SIZE).expand(2, T, 3, 3)
    camera = Camera(torch.stack([torch.eye(4).expand(T, 4, 4), asked.float()]), K, SIZE)
    video = torch.zeros(T, 3, *SIZE)
    found = torch.ones(T, dtype=torch.bool) if found is None else found
    poses = cameras_from_poses(estimated, K[0], SIZE, found, "told", scale_known).arrays()
    return Sample(Inputs("case", video, camera, subject_distance=4.0), video, estimates={"generated.poses": poses})


def beside(estimated: torch.Tensor, found: torch.Tensor | None = None) -> Sample:
    """The reference moves along an arc, the target stands aside, turned; both are estimated in one world (2T)."""
    K = intrinsics_from_fov(50.0, SIZE).expand(2, T, 3, 3)
    camera = Camera(aside().float(), K, SIZE)
    video = torch.zeros(T, 3, *SIZE)
    found = torch.ones(2 * T, dtype=torch.bool) if found is None else found
    poses = cameras_from_poses(estimated, K.flatten(0, 1), SIZE, found, "told").arrays()
    return Sample(Inputs("case", video, camera, source_camera_known=True), video, estimates={"joint.poses": poses})


def aside() -> torch.Tensor:
    """(2, T) true cameras: 30 degrees of turn between the still one and where the reference begins."""
    still = parse_path("arc_left 30").poses(2)[-1].expand(T, 4, 4)
    return torch.stack([parse_path("arc_right 20").poses(T), still])


def elsewhere(c2w: torch.Tensor) -> torch.Tensor:
    """The same cameras (2T) in another world and unit."""
    moved = c2w.flatten(0, 1).clone()
    moved[:, :3, 3] *= 0.3
    return parse_path("pan_left 50; dolly_in 3").poses(2)[1] @ moved


@pytest.mark.parametrize("scale", ["self_max", "gt_lsq", "umeyama"])
def test_a_still_target_is_judged_beside_the_reference(scale):
    """A video that stays where the reference begins is off by the angle between the cameras; its own path alone would
    say that it is perfect, as would the right one's."""
    metric, true = CameraMeasure(scale, "reference"), aside()
    assert metric.needs == ("camera", "joint.poses")
    perfect = metric.score(beside(elsewhere(true)))
    assert max(perfect[name] for name in ERRORS) < 1e-4
    stays = metric.score(beside(elsewhere(torch.stack([true[0], true[0, :1].expand(T, 4, 4)]))))
    assert stays["mRotErr"] == pytest.approx(30.0, abs=1e-3)
    assert stays["mTransErr"] > 0.1
    assert stays["mCamMC"] > stays["mTransErr"]
    assert stays["pose_coverage"] == 1
    follows = metric.score(beside(elsewhere(true[[0, 0]])))
    assert follows["mRotErr"] == pytest.approx(float(torch.linspace(30, 50, T).mean()), abs=1e-3)
    own = CameraMeasure(scale).score(sample(true[1], true[0, :1].expand(T, 4, 4)))
    assert own["mRotErr"] < 1e-4
    assert own["mTransErr"].kind == "skipped"


def test_poses_of_one_of_two_videos_are_no_joint_poses():
    metric, true = CameraMeasure(origin="reference"), aside()
    found = torch.ones(2 * T, dtype=torch.bool)
    found[:T] = False
    scores = metric.score(beside(elsewhere(true), found))
    assert scores["mRotErr"] == Skipped(
        "failed", "no frame of the reference has a pose in the world of the generated ones"
    )
    assert scores["pose_coverage"] == 0
    scores = metric.score(beside(elsewhere(true), ~found))
    assert scores["mRotErr"].reason == "only 0 of 7 frames have a pose"
    assert scores["pose_coverage"] == 0
    found[2:T] = True
    found[-2:] = False
    scores = metric.score(beside(elsewhere(true), found))
    assert scores["mCamMC"] < 1e-4
    assert scores["pose_coverage"] == pytest.approx(5 / 7)


@pytest.mark.parametrize("case", ["arc_noisy", "dolly_noisy", "random_unrelated"])
def test_golden_sums(golden_numbers, case):
    golden = golden_numbers("camera_metrics")
    estimated, true = (torch.from_numpy(golden[f"{case}.{name}_c2w"]) for name in ("pred", "gt"))
    frames = len(true)
    K = intrinsics_from_fov(50.0, SIZE).expand(2, frames, 3, 3)
    camera = Camera(torch.stack([true, true]), K.double(), SIZE)
    video, found = torch.zeros(frames, 3, *SIZE), torch.ones(frames, dtype=torch.bool)
    poses = cameras_from_poses(estimated, K[0], SIZE, found, "told").arrays()
    scores = CameraMeasure().score(Sample(Inputs("c", video, camera), video, estimates={"generated.poses": poses}))
    assert scores["RotErr"] == pytest.approx(float(golden[f"{case}.RotErr_sum_rad"]), rel=1e-6)
    assert scores["TransErr"] == pytest.approx(float(golden[f"{case}.TransErr_rel_sum"]), rel=1e-6)
    assert scores["CamMC"] == pytest.approx(float(golden[f"{case}.CamMC_rel_sum"]), rel=1e-6)
    assert scores["mRotErr"] == pytest.approx(math.degrees(scores["RotErr"]) / frames)
    assert scores["mCamMC"] == pytest.approx(scores["CamMC"] / frames)


def test_the_true_path_in_another_world_and_unit_has_no_error():
    asked = parse_path("arc_left 20").poses(T)
    moved = asked.clone()
    moved[:, :3, 3] *= 0.3
    world = parse_path("pan_left 50; dolly_in 3").poses(2)[1]
    for scale in ("self_max", "gt_lsq", "umeyama"):
        scores = CameraMeasure(scale).score(sample(asked, world @ moved))
        assert max(scores[name] for name in ERRORS) < 1e-4
        assert scores["pose_coverage"] == 1


def test_paths_that_only_turn_have_no_translation_score():
    asked = parse_path("pan_left 20").poses(T)
    jitter = asked.clone()
    jitter[:, :3, 3] = torch.randn(T, 3, generator=torch.Generator().manual_seed(0)).double()
    scores = CameraMeasure().score(sample(asked, jitter))
    assert scores["mRotErr"] < 1e-4
    for name in ("mTransErr", "mCamMC", "TransErr", "CamMC"):
        assert scores[name].kind == "skipped"
        assert "only turns" in scores[name].reason


def test_a_video_that_does_not_move_misses_a_path_that_does():
    asked = parse_path("dolly_in 2").poses(T)
    scores = CameraMeasure().score(sample(asked, torch.eye(4).double().repeat(T, 1, 1)))
    assert scores["mTransErr"] == pytest.approx(float(torch.linspace(0, 1, T).mean()), abs=1e-6)


def test_missing_frames():
    asked, found = parse_path("arc_left 20").poses(T), torch.ones(T, dtype=torch.bool)
    found[[2, 5]] = False
    scores = CameraMeasure().score(sample(asked, asked, found))
    assert scores["mCamMC"] < 1e-4
    assert scores["pose_coverage"] == pytest.approx(5 / 7)
    assert {scores[name].reason for name in ("RotErr", "TransErr", "CamMC")} == {"sums need a pose of every frame"}
    found[[0, 1, 3]] = False
    scores = CameraMeasure().score(sample(asked, asked, found))
    assert {scores[name] for name in ERRORS} == {Skipped("failed", "only 2 of 7 frames have a pose")}
    assert scores["pose_coverage"] == pytest.approx(2 / 7)


def test_the_absolute_measure_needs_a_unit():
    asked = parse_path("dolly_in 2").poses(T)
    double = asked.clone()
    double[:, :3, 3] *= 2
    scores = CameraMeasure("gt_max").score(sample(asked, double, scale_known=True))
    assert scores["mTransErr"] == pytest.approx(float(torch.linspace(0, 1, T).mean()), abs=1e-6)
    scores = CameraMeasure("gt_max").score(sample(asked, double))
    assert "no known unit" in scores["mTransErr"].reason
    assert scores["mRotErr"] < 1e-4


def test_every_column_gets_a_value_or_a_reason_and_the_rule_is_stated():
    asked = parse_path("arc_left 20").poses(T)
    metric = CameraMeasure("umeyama")
    assert all(isinstance(v, float) for v in checked(metric, metric.score(sample(asked, asked))).values())
    assert "ReDirector" in metric.footnotes[0]
    assert "own first frame" in metric.footnotes[0]
    assert "relative to the reference's first frame" in replace(metric, origin="reference").footnotes[0]
    assert metric.settings != replace(metric, scale="self_max").settings != CameraMeasure(origin="reference").settings
