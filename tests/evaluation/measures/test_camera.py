import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from mvtrack.camera import Camera, intrinsics_from_fov
from mvtrack.evaluation.interface import Declined, Inputs, Metric, Sample
from mvtrack.evaluation.measures.camera import CameraMeasure
from mvtrack.evaluation.runner.scoring import checked
from mvtrack.path_language import parse_path
from mvtrack.structure.recovered import recovered

T, SIZE = 7, (13, 17)
ERRORS = ("mRotErr", "mTransErr", "mCamMC", "RotErr", "TransErr", "CamMC")


def sample(asked: torch.Tensor, estimated: torch.Tensor, found=None, scale_known: bool = False) -> Sample:
    K = intrinsics_from_fov(50.0, SIZE).expand(2, T, 3, 3)
    camera = Camera(torch.stack([torch.eye(4).expand(T, 4, 4), asked.float()]), K, SIZE)
    video = torch.zeros(T, 3, *SIZE)
    found = torch.ones(T, dtype=torch.bool) if found is None else found
    poses = recovered(estimated, K[0], SIZE, found, "told", scale_known).arrays()
    return Sample(Inputs("case", video, camera, subject_distance=4.0), video, estimates={"generated.poses": poses})


def test_it_is_a_metric():
    metric = CameraMeasure()
    assert isinstance(metric, Metric)
    assert set(ERRORS) < {c.key for c in metric.columns}


@pytest.mark.parametrize("case", ["arc_noisy", "dolly_noisy", "random_unrelated"])
def test_golden_sums(shared, case):
    golden = np.load(shared("golden/metrics/camera_metrics.npz"))
    estimated, true = (torch.from_numpy(golden[f"{case}.{name}_c2w"]) for name in ("pred", "gt"))
    frames = len(true)
    K = intrinsics_from_fov(50.0, SIZE).expand(2, frames, 3, 3)
    camera = Camera(torch.stack([true, true]), K.double(), SIZE)
    video, found = torch.zeros(frames, 3, *SIZE), torch.ones(frames, dtype=torch.bool)
    poses = recovered(estimated, K[0], SIZE, found, "told").arrays()
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
    assert {scores[name] for name in ERRORS} == {Declined("failed", "only 2 of 7 frames have a pose")}
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
    assert metric.settings != replace(metric, scale="self_max").settings
