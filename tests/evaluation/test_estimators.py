"""Where poses come from: files, the benchmark, pycolmap; and that results are kept, and taken up when they can be."""

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from mvtrack.data.synthetic.camera_rig import base_pose
from mvtrack.data.synthetic.detailed_scenes import FOV_DEG, STATIC, detailed_scene
from mvtrack.data.synthetic.renderer import render
from mvtrack.evaluation import estimators
from mvtrack.evaluation.estimators import ColmapPoses, PlaneSweepDepth, PoseFiles, TruePoses, moving_in_target
from mvtrack.evaluation.interface import Estimator, Inputs, Sample
from mvtrack.evaluation.measures.camera import CameraMeasure
from mvtrack.evaluation.measures.registry import pose_estimator
from mvtrack.evaluation.methods.baselines import Baseline
from mvtrack.evaluation.report.summary import summarise
from mvtrack.evaluation.runner.plan import Plan
from mvtrack.evaluation.runner.stages import run_stages
from mvtrack.evaluation.settings import load_settings
from mvtrack.geometry.camera import Camera, intrinsics_from_fov
from mvtrack.geometry.path_language import parse_path
from mvtrack.geometry.pose_files import CameraSequence, write_cameras
from mvtrack.geometry.splat import splat
from mvtrack.geometry.trajectory import CameraPath
from mvtrack.inference.camera_estimation.colmap import colmap_missing
from mvtrack.inference.camera_estimation.estimated_cameras import CameraEstimationError, cameras_from_poses
from mvtrack.metrics.camera_accuracy import rotation_angle
from mvtrack.video.writer import from_bytes, to_bytes

T, SIZE = 5, (13, 17)  # of the toy benchmark's cases


def pose_file(path: Path, frames: int = T, size: tuple[int, int] = SIZE, text: str = "arc_left 20") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    K = intrinsics_from_fov(50.0, size).double().repeat(frames, 1, 1)
    sequence = CameraSequence(Camera(parse_path(text).poses(frames), K, size), tuple(map(str, range(frames))))
    return write_cameras(path, sequence, "json")


@pytest.fixture
def inputs(toy) -> Inputs:
    return toy.load("cows")


def test_files_of_each_row(toy, inputs, tmp_path):
    pose_file(tmp_path / "copy/cows.json")
    files = PoseFiles.of(tmp_path)
    estimate = files.of_row("copy").estimate(inputs, inputs.reference, "generated")
    torch.testing.assert_close(torch.from_numpy(estimate["c2w"]), parse_path("arc_left 20").poses(T))
    assert estimate["found"].all()
    with pytest.raises(ValueError, match=r"peer holds 0 pose files cows\.\*, expected one"):
        files.of_row("peer").estimate(inputs, inputs.reference, "generated")
    pose_file(tmp_path / "copy/cows.txt.json")  # another case, which begins alike
    files.of_row("copy").estimate(inputs, inputs.reference, "generated")
    pose_file(tmp_path / "copy/cows.JSON")
    with pytest.raises(ValueError, match=r"holds 2 pose files cows\.\*"):
        files.of_row("copy").estimate(inputs, inputs.reference, "generated")


def test_files_that_do_not_fit(inputs, tmp_path):
    file = pose_file(tmp_path / "copy/cows.json", frames=7)
    padded = PoseFiles.of(tmp_path, num_frames=7).of_row("copy")
    assert padded.estimate(inputs, inputs.reference, "generated")["c2w"].shape == (T, 4, 4)
    for frames, size, message in (
        (7, SIZE, "cows.json holds 7 cameras, the video 5 frames"),
        (3, SIZE, "cows.json holds 3 cameras, the video 5 frames"),
        (T, (17, 13), "cows.json is for pictures of 13x17, the video is 17x13"),
    ):
        file.unlink()
        pose_file(file, frames, size)
        with pytest.raises(ValueError, match=message):
            PoseFiles.of(tmp_path).of_row("copy").estimate(inputs, inputs.reference, "generated")


def test_files_of_both_videos_in_one_world(inputs, tmp_path):
    """The reference's cameras first; what a padded clip has beyond its real frames is left out of both."""
    both = inputs.reference.repeat(2, 1, 1, 1)
    file, path = tmp_path / "copy/cows.json", parse_path("arc_left 20").poses(14)
    pose_file(file, frames=10)
    estimate = PoseFiles.of(tmp_path).of_row("copy").estimate(inputs, both, "joint")
    assert estimate["c2w"].shape == (2 * T, 4, 4)
    file.unlink()
    pose_file(file, frames=14)
    estimate = PoseFiles.of(tmp_path, num_frames=7).of_row("copy").estimate(inputs, both, "joint")
    real = [*range(5), *range(7, 12)]
    torch.testing.assert_close(torch.from_numpy(estimate["c2w"]), path[real])
    for frames in (5, 11, 14):
        file.unlink()
        pose_file(file, frames)
        with pytest.raises(ValueError, match=f"holds {frames} cameras, .* 5 of the reference and then 5 of the video"):
            PoseFiles.of(tmp_path).of_row("copy").estimate(inputs, both, "joint")


def test_other_files_are_another_estimator(tmp_path):
    file = pose_file(tmp_path / "copy/cows.json")
    before = PoseFiles.of(tmp_path)
    assert before.settings == PoseFiles.of(tmp_path).settings
    file.unlink()
    pose_file(file, text="arc_right 20")
    assert before.settings != PoseFiles.of(tmp_path).settings


def test_true_poses_of_rows_that_have_some(iphone, tmp_path):
    """The iPhone's still cameras: the truth is where it should be, a copy is as far off as the cameras are apart."""
    rows = (Baseline("copy"), Baseline("ground_truth"), Baseline("depth_warp_estimated"))
    metric = CameraMeasure("gt_lsq", origin="reference")
    plan = Plan(iphone, rows, (metric,), {"poses": TruePoses(), "depth": PlaneSweepDepth()}, tmp_path)
    run_stages(plan, ("generate", "estimate", "score"))
    scores = {row["name"]: row["scores"] for row in summarise(plan)["rows"]}
    for column in ("mRotErr", "mTransErr", "mCamMC"):
        assert (scores["ground_truth"][column]["count"], scores["ground_truth"][column]["mean"]) == (
            2, pytest.approx(0, abs=1e-4),
        )  # fmt: skip
    cameras = [iphone.load(key).camera.c2w[:, :, :3, :3] for key in iphone.case_keys()]
    apart = torch.stack([torch.rad2deg(rotation_angle(*c2w)).mean() for c2w in cameras]).mean()
    assert apart > 10
    assert scores["copy"]["mRotErr"]["mean"] == pytest.approx(float(apart), abs=1e-2)
    assert scores["copy"]["mTransErr"]["mean"] > 0.1
    assert scores["depth_warp_estimated"]["mRotErr"]["skipped"] == 2


def test_true_poses_of_a_path(davis):
    case = davis.load(davis.case_keys()[0])
    for row, view in (("copy", 0), ("ground_truth", 1)):
        estimate = TruePoses().of_row(row).estimate(case, case.reference, "generated")
        first, last = case.camera[view].c2w[[0, -1]].double()
        torch.testing.assert_close(
            torch.from_numpy(estimate["c2w"][-1]), torch.linalg.inv(first) @ last, atol=1e-6, rtol=0
        )
    assert TruePoses().of_row("tiny").estimate(case, case.reference, "generated").kind == "skipped"


def test_what_colmap_is_given(davis, monkeypatch):
    """The asked-for lens for a generated video; both lenses and masks, frame by frame in turn, for both videos, and
    what it finds in the order of the videos."""
    calls = []

    def told(frames, lens, known, ignore, config):
        calls.append((frames, lens, known, ignore))
        c2w, K = torch.eye(4).double().repeat(len(frames), 1, 1), lens.K.expand(len(frames), 3, 3)
        c2w[:, 0, 3] = torch.arange(len(frames))
        return cameras_from_poses(c2w, K, lens.size, torch.arange(len(frames)) != 3, "told")

    monkeypatch.setattr(estimators, "recover_with_colmap", told)
    case = davis.load(davis.case_keys()[0])
    zoomed = case.camera.K.clone()
    zoomed[1, :, :2, :2] *= torch.linspace(1, 1.5, T)[:, None, None]
    zooms = replace(case, camera=replace(case.camera, K=zoomed), source_camera_known=False)
    ColmapPoses().estimate(case, case.target, "generated")
    both = torch.cat([case.reference, case.target])
    estimate = ColmapPoses().estimate(case, both, "joint")
    ColmapPoses().estimate(zooms, both, "joint")
    ColmapPoses().estimate(replace(case, source_camera_known=False, dynamic=None), both, "joint")
    (frames, lens, known, ignore), together, zooming, unmeasured = calls
    assert frames.dtype == np.uint8
    assert frames.shape == (5, 24, 32, 3)
    assert torch.equal(lens.K, case.camera[1].K[:1])
    assert known
    assert ignore.shape == (5, 24, 32)
    frames, lens, known, ignore = together
    assert np.array_equal(frames[0::2], to_bytes(case.reference))
    assert np.array_equal(frames[1::2], to_bytes(case.target))
    assert np.array_equal(ignore[0::2], case.dynamic.numpy())
    assert np.array_equal(ignore[1::2], moving_in_target(case).numpy())
    assert (lens.shape, known) == ((1,), True)
    assert estimate["c2w"][:, 0, 3].tolist() == [0, 2, 4, 6, 8, 1, 0, 5, 7, 9]
    assert estimate["found"].tolist() == [True] * 6 + [False] + [True] * 3
    _, lens, known, _ = zooming  # lenses that differ are taken as they are
    assert torch.equal(lens.K[0::2], zoomed[0])
    assert torch.equal(lens.K[1::2], zoomed[1])
    assert known
    _, lens, known, ignore = unmeasured
    assert (lens.shape, known, ignore) == ((1,), False, None)


def test_moving_things_are_masked_where_the_path_would_show_them(davis):
    """By true depth: within what moves in the rendered target, widened; without depth, near it."""
    case = davis.load("scene-00--pan_right")
    target, moving = case.camera[1], moving_in_target(case)
    seen = torch.stack(
        [
            splat(case.dynamic[t][None].float(), case.depth[t], case.camera[0, t], target[t])[0][0] > 0.5
            for t in range(T)
        ]
    )
    assert seen.any()
    assert moving[seen].all()
    assert moving.float().mean() < 3 * seen.float().mean()
    flat = moving_in_target(replace(case, depth=None))
    assert (flat & seen).float().sum() > 0.9 * seen.float().sum()  # the camera only turns: any depth will do
    assert moving_in_target(replace(case, dynamic=None)) is None


class Unsure(Estimator):
    """An estimator that knows some cases, and is not installed at first."""

    name = "unsure"

    def __init__(self) -> None:
        self.absent: str | None = "unsure: pip install unsure"

    def missing(self) -> str | None:
        return self.absent

    def estimate(self, inputs, video, subject):
        if inputs.key == "cows":
            raise CameraEstimationError("only 3 points could be matched")
        found = torch.ones(T, dtype=torch.bool)
        return cameras_from_poses(inputs.camera[1].c2w, inputs.camera[1].K, SIZE, found, "told").arrays()


def test_failures_are_counted_and_what_was_not_installed_is_taken_up(toy, tmp_path):
    estimator = Unsure()
    plan = Plan(toy, (Baseline("copy"),), (CameraMeasure(),), {"poses": estimator}, tmp_path)

    def score(column: str) -> dict:
        run_stages(plan, ("generate", "estimate", "score"))
        return summarise(plan)["rows"][0]["scores"][column]

    assert score("mRotErr")["reasons"] == {"skipped: missing unsure: pip install unsure": 3}
    estimator.absent = None
    after = score("mRotErr")
    assert (after["count"], after["failed"], after["mean"]) == (2, 1, 0.0)
    assert after["reasons"] == {"failed: unsure, generated video: only 3 points could be matched": 1}
    coverage = score("pose_coverage")
    assert (coverage["count"], coverage["mean"]) == (3, pytest.approx(2 / 3))
    assert "unsure" not in " ".join(str(r) for r in score("mTransErr")["reasons"] if "turns" in r)


def test_the_runner_says_whose_video_it_is(toy, tmp_path):
    """Two rows with other videos, each with its own folder of files; one file is missing."""
    for row, keys in (("copy", ("bear", "dog")), ("blur", ("bear", "cows", "dog"))):
        for key in keys:
            pose_file(tmp_path / "poses" / row / f"{key}.json", text="static" if row == "copy" else "pan_left 10")
    methods = (Baseline("copy"), Baseline("blur"))
    plan = Plan(toy, methods, (CameraMeasure(),), {"poses": PoseFiles.of(tmp_path / "poses")}, tmp_path / "out")
    run_stages(plan, ("generate", "estimate", "score"))
    rows = {row["name"]: row["scores"]["mRotErr"] for row in summarise(plan)["rows"]}
    assert (rows["copy"]["count"], rows["copy"]["failed"]) == (2, 1)
    assert "copy holds 0 pose files cows.*, expected one" in next(iter(rows["copy"]["reasons"]))
    assert rows["copy"]["mean"] < 1e-4  # the toy's cameras stand still
    assert rows["blur"]["mean"] == pytest.approx(5.0, abs=0.01)


@pytest.mark.skipif(colmap_missing() is not None, reason=f"missing {colmap_missing()}")
def test_pictures_that_are_too_small_fail_with_a_reason(davis):
    case = davis.load(davis.case_keys()[0])
    with pytest.raises(CameraEstimationError, match="points could be matched|structure from motion|mapper found"):
        ColmapPoses().estimate(case, torch.zeros_like(case.reference), "generated")


def test_weights_that_are_not_free_wait_for_consent(tmp_path, monkeypatch):
    """And scores of one folder of weights, or of one package, are not those of another."""
    (tmp_path / "depth_anything_3").mkdir()
    (tmp_path / "depth_anything_3/api.py").write_text("")
    python = tmp_path / "python"
    python.write_text(f'#!/bin/sh\nPYTHONPATH="{tmp_path}" exec "{sys.executable}" "$@"\n')
    python.chmod(0o755)
    weights = tmp_path / "weights"
    weights.mkdir()
    (weights / "model.safetensors").write_bytes(b"one")
    learned = ["poses.estimator=depth_anything_3", f"environments.depth_anything_3={python}"]
    for model in ("depth-anything/DA3-LARGE", weights):
        with pytest.raises(ValueError, match=f"cannot run: missing consent: .*{model}.*; pass --non-commercial"):
            pose_estimator(load_settings(None, [*learned, f"poses.model={model}"]), 7)
    assert pose_estimator(load_settings(None, learned), 7).missing() is None
    first = pose_estimator(load_settings(None, [*learned, f"poses.model={weights}"]), 7, non_commercial=True)
    before = first.settings
    assert before["package"].startswith("no version, sources ")
    assert str(weights) not in str(before)
    (weights / "model.safetensors").write_bytes(b"two")
    assert first.settings["weights"] != before["weights"]


@pytest.mark.skipif(colmap_missing() is not None, reason=f"missing {colmap_missing()}")
@pytest.mark.slow
def test_a_video_that_stays_at_the_reference_is_off_by_the_angle_between_the_cameras():
    frames, size, aside_deg = 5, (180, 240), 15.0
    rng = np.random.default_rng(1)
    scene, K = detailed_scene(rng, frames, STATIC), intrinsics_from_fov(FOV_DEG, size)
    first, pivot_m = base_pose(rng, float(K[0, 0]) / size[1])
    moving = first @ CameraPath("arc_right", 12.0, pivot_m=pivot_m).poses(frames)
    still = (first @ CameraPath("arc_left", aside_deg, pivot_m=pivot_m).poses(2)[-1]).expand(frames, 4, 4)
    camera = Camera(torch.stack([moving, still]).float(), K.expand(2, frames, 3, 3), size, True)
    reference, target = from_bytes(render(scene, camera).video)
    inputs = Inputs("case", reference, camera, source_camera_known=True, subject_distance=pivot_m)

    def scores(video: torch.Tensor) -> dict:
        joint = ColmapPoses().estimate(inputs, torch.cat([reference, video]), "joint")
        return CameraMeasure(origin="reference").score(Sample(inputs, video, estimates={"joint.poses": joint}))

    truth, stays = scores(target), scores(reference[:1].expand(frames, -1, -1, -1))
    assert truth["pose_coverage"] == stays["pose_coverage"] == 1
    assert truth["mRotErr"] < 0.3
    assert truth["mTransErr"] < 0.02
    assert stays["mRotErr"] == pytest.approx(aside_deg, abs=0.3)
    assert stays["mTransErr"] > 0.5
