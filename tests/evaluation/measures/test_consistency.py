from dataclasses import replace

import numpy as np
import pytest
import torch

from mvtrack.evaluation.interface import BatchMetric, Sample, Skipped
from mvtrack.evaluation.measures.consistency import WarpConsistency
from mvtrack.evaluation.measures.pair_features import DynamicMasks, PairFeatures
from mvtrack.evaluation.measures.pair_sources import DepthFiles, EstimatedDepth, TrueDepth
from mvtrack.evaluation.methods.baselines import Baseline
from mvtrack.evaluation.report.summary import summarise
from mvtrack.evaluation.runner.case import Case
from mvtrack.evaluation.runner.plan import Plan
from mvtrack.evaluation.runner.stages import run_stages

COLOURS = PairFeatures("colours")
TRUE = WarpConsistency(TrueDepth(), COLOURS)
NAME = "warp_consistency.true_depth.colours"


def reason(scores: dict, column: str) -> str:
    value = scores[column]
    assert isinstance(value, Skipped), value
    return f"{value.kind}: {value.reason}"


def test_the_true_video_agrees_with_the_reference(wall):
    scores = TRUE.score(wall)
    assert set(scores) == {c.key for c in TRUE.columns}
    assert scores[NAME] < 1e-4
    assert scores[f"{NAME}.dynamic"] < 1e-4
    assert scores[f"{NAME}.share"] == pytest.approx(np.mean([44, 43, 42]) / 48, abs=0.01)
    assert scores[f"{NAME}.dynamic_share"] == pytest.approx(2 / 3 * 100 / (32 * 48), abs=1e-4)
    assert not isinstance(TRUE, BatchMetric)


def test_only_what_moves_is_wrong(wall):
    """A moving thing is painted over: the dynamic score sees it whole, the other one by its share of the picture."""
    made = wall.generated.clone()
    made[:, :, 10:20, 14:26] = 1.0  # where the masked square lies in the second camera
    scores = TRUE.score(replace(wall, generated=made))
    assert scores[f"{NAME}.dynamic"] > 0.3
    assert scores[f"{NAME}.dynamic"] > 5 * scores[NAME] > 0


def test_pairs_without_a_moving_pixel_do_not_count(wall):
    """The last frame has no mask; a video that is wrong there only has a perfect dynamic score."""
    made = wall.generated.clone()
    made[2] *= -1
    scores = TRUE.score(replace(wall, generated=made))
    assert scores[f"{NAME}.dynamic"] < 1e-4
    assert scores[NAME] > 0.1
    nothing = replace(wall, inputs=replace(wall.inputs, dynamic=torch.zeros_like(wall.inputs.dynamic)))
    scores = TRUE.score(nothing)
    assert reason(scores, f"{NAME}.dynamic") == "skipped: no dynamic pixel is seen by both pictures of any pair"
    assert scores[f"{NAME}.dynamic_share"] == 0


def test_what_the_benchmark_lacks_costs_only_its_columns(wall):
    unmasked = replace(wall.inputs, dynamic=None)
    scores = TRUE.score(replace(wall, inputs=unmasked))
    assert scores[NAME] < 1e-4
    assert reason(scores, f"{NAME}.dynamic") == "skipped: this benchmark gives no masks of what moves"
    bad = replace(unmasked, problems={"dynamic": "cannot read the mask 0.png"})
    assert reason(TRUE.score(replace(wall, inputs=bad)), f"{NAME}.dynamic") == "failed: cannot read the mask 0.png"
    away = wall.inputs.camera.c2w.clone()
    away[1, :, 0, 3] = 50.0
    nothing = replace(wall.inputs, camera=replace(wall.inputs.camera, c2w=away))
    scores = TRUE.score(replace(wall, inputs=nothing))
    assert reason(scores, NAME) == "skipped: no pixel is seen by both pictures of any pair"


def test_without_the_targets_depth_the_references_surface_serves(wall):
    half = replace(wall, inputs=replace(wall.inputs, target_depth=None))
    scores, whole = TRUE.score(half), TRUE.score(wall)
    assert scores[NAME] < 1e-4
    assert scores[f"{NAME}.share"] == pytest.approx(whole[f"{NAME}.share"], abs=0.05)


def test_consecutive_generated_frames(wall):
    pairs = replace(TRUE, pairing="consecutive")
    scores = pairs.score(wall)
    assert set(scores) == {c.key for c in pairs.columns}
    assert scores[f"{NAME}.consecutive"] < 1e-4
    assert "masks are of the reference" in reason(scores, f"{NAME}.consecutive.dynamic")
    frozen = replace(wall, generated=wall.generated[:1].expand(3, -1, -1, -1))
    assert pairs.score(frozen)[f"{NAME}.consecutive"] > 0.1


def test_masks_of_the_generated_video(wall, tmp_path):
    """The same square, given in the second camera's pixels, is carried into the reference."""
    masks = torch.zeros(3, 32, 48, dtype=torch.bool)
    for t, step in enumerate((4, 5)):
        masks[t, 10:20, 20 - step : 30 - step] = True
    metric = replace(TRUE, masks=DynamicMasks("generated", tmp_path))
    assert reason(metric.score(wall), f"{NAME}.dynamic").startswith("failed: cannot read mask from")
    (tmp_path / "row").mkdir()
    np.savez(tmp_path / "row/wall.npz", mask=masks.numpy())
    made = wall.generated.clone()
    made[:, :, 10:20, 14:26] = 1.0
    wrong, truth = metric.score(replace(wall, generated=made)), metric.score(wall)
    assert truth[f"{NAME}.dynamic"] < 1e-4
    assert truth[f"{NAME}.dynamic_share"] == pytest.approx(2 / 3 * 100 / (32 * 48), abs=1e-3)
    assert wrong[f"{NAME}.dynamic"] > 0.3
    np.savez(tmp_path / "row/wall.npz", mask=masks[:2].numpy())
    assert "a mask of (2, 32, 48), expected (3, 32, 48)" in reason(metric.score(wall), f"{NAME}.dynamic")


def test_estimated_depth(wall):
    metric = WarpConsistency(EstimatedDepth(), COLOURS)
    assert "claims no order between models" in metric.footnotes[0]
    depth = {"depth": np.full((3, 32, 48), 2.0, np.float32)}
    estimates = {"reference.depth": depth, "generated.depth": depth}
    assert metric.score(replace(wall, estimates=estimates))["warp_consistency.estimated_depth.colours"] < 1e-4
    wrong = estimates | {"generated.depth": {"depth": depth["depth"] * 0.6}}
    assert metric.score(replace(wall, estimates=wrong))["warp_consistency.estimated_depth.colours"] > 0.1


def test_depth_files_that_change_are_scored_again(davis, tmp_path):
    """Read by row and case, checked, and part of what a score is kept by."""
    folder = tmp_path / "depth"
    metric = WarpConsistency(DepthFiles(folder), COLOURS)
    assert metric.missing() == f"the folder of depth files {folder}"
    assert WarpConsistency(DepthFiles(), COLOURS).missing() == "depth files: set consistency.depth_files"
    (folder / "reference").mkdir(parents=True)
    (folder / "ground_truth").mkdir()
    plan = Plan(davis, (Baseline("ground_truth"),), (metric,), folder=tmp_path / "out")
    first, second = davis.case_keys()
    inputs = davis.load(first)
    np.savez(folder / f"reference/{first}.npz", depth=inputs.depth.numpy())
    np.savez(folder / f"ground_truth/{first}.npz", depth=inputs.target_depth.numpy())
    np.savez(folder / f"reference/{second}.npz", depth=inputs.depth[:, :7].numpy())
    [failure] = run_stages(plan, ["generate", "score"])
    assert f"reference/{second}.npz holds float32 of (5, 7, 32), expected floats of (5, 24, 32)" in failure

    def score() -> float:
        return summarise(plan)["rows"][0]["scores"][metric.name]["mean"]

    before = score()
    truth = TRUE.score(_sample(davis, plan, first))[NAME]
    assert before == pytest.approx(truth, abs=1e-6)
    np.savez(folder / f"ground_truth/{first}.npz", depth=1.4 * inputs.target_depth.numpy())
    assert score() is None
    run_stages(plan, ["score"])
    assert score() > before


def _sample(benchmark, plan, key):
    video = Case.of(plan, key).video("ground_truth")
    return Sample(benchmark.load(key), video.frames)


def test_features_of_a_network_are_compared_coarsely(wall, monkeypatch):
    """Patches of a stand-in network: the grid is bounded, the distance is the cosine's."""
    features = PairFeatures("dino")
    assert features.grid((480, 832)) == (120, 208)
    assert features.grid((64, 112)) == (64, 112)
    assert COLOURS.grid((480, 832)) == (480, 832)

    class Patches(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = torch.nn.Parameter(torch.ones(()))
            self.config = type("Config", (), {"patch": 8})

        def feature_map(self, image):
            return torch.nn.functional.avg_pool2d(image, 8)

    monkeypatch.setattr("mvtrack.evaluation.measures.pair_features._dino", lambda path: Patches())
    metric = WarpConsistency(TrueDepth(), features)
    assert metric.missing().startswith("dino_vitbase16_pretrain.pth: put https://dl.fbaipublicfiles.com")
    same = metric.score(wall)["warp_consistency.true_depth.dino"]
    other = metric.score(replace(wall, generated=-wall.generated))["warp_consistency.true_depth.dino"]
    assert 0 <= same < 0.2
    assert other > 3 * same
