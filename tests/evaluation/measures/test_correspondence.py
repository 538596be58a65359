from dataclasses import replace
from pathlib import Path

import pytest

from mvtrack.config.placement import Placement
from mvtrack.evaluation.interface import Sample, Skipped
from mvtrack.evaluation.measures.correspondence import Correspondence
from mvtrack.evaluation.methods.baselines import Baseline
from mvtrack.evaluation.methods.model import ModelMethod
from mvtrack.evaluation.report.summary import summarise
from mvtrack.evaluation.runner.plan import Plan
from mvtrack.evaluation.runner.stages import run_stages
from mvtrack.inference.sampler import SamplerOptions
from mvtrack.models.reshoot_model import ReshootModel, save_model


@pytest.fixture
def sample(davis) -> Sample:
    inputs = davis.load(davis.case_keys()[0])
    return Sample(inputs, inputs.target, method="mine")


def row_of(model: ReshootModel, folder: Path) -> ModelMethod:
    return ModelMethod("mine", "Mine", save_model(model, folder / "m").parent, SamplerOptions(1))


def test_the_miniature_knows_tracks_of_both_views(sample):
    tracks = sample.inputs.tracks
    assert tracks.xy.shape == (2, 5, 64, 2)
    shown = tracks.xy[tracks.visible]
    assert float(shown.min()) >= 0
    assert (shown.amax(0) <= shown.new_tensor([32, 24])).all()


def test_a_model_is_scored_on_the_true_videos(sample, tracking_model, tmp_path):
    metric = Correspondence({"mine": row_of(tracking_model, tmp_path)})
    scores = metric.score(sample)
    assert set(scores) == {c.key for c in metric.columns}
    assert all(0 <= value <= 1 for value in scores.values())
    assert metric.score(replace(sample, generated=-sample.generated)) == scores
    assert metric.settings == Correspondence().settings


@pytest.mark.gpu
def test_a_model_scores_the_same_on_a_gpu(sample, tracking_model, tmp_path):
    near = row_of(tracking_model, tmp_path)
    found = [
        Correspondence({"mine": replace(near, placement=Placement(device))}).score(sample) for device in ("cpu", "cuda")
    ]
    assert found[1] == pytest.approx(found[0], abs=0.02)


def test_what_does_not_apply_is_said(sample, small_model, tmp_path):
    metric = Correspondence({"mine": row_of(small_model, tmp_path)})
    scores = metric.score(sample)
    assert 0 <= scores["attention_pck"] <= 1
    assert scores["tracks_delta_avg"].reason == "this model has no tracking head"
    assert metric.score(replace(sample, method="copy")).reason == "no model of this project made this video"
    lost = Correspondence({"mine": None}).score(sample)
    assert (lost.kind, lost.reason) == ("failed", "the model that made this video is gone or has changed")
    part = replace(sample.inputs, target=sample.inputs.target[:3], target_frames=(0, 1, 2), covisible=None)
    found = metric.score(replace(sample, inputs=part))
    assert isinstance(found, Skipped)
    assert found.reason == "the true target view is not known at every frame"


def test_scores_of_a_model_stay_when_another_row_is_added(davis, small_model, tmp_path):
    """The metric of the second run knows nothing of the first run's model."""
    mine = row_of(small_model, tmp_path)
    plan = Plan(davis, (mine,), (Correspondence({"mine": mine}),), folder=tmp_path / "out")
    assert run_stages(plan, ["generate", "score"]) == []
    again = Plan(davis, (Baseline("copy"),), (Correspondence(),), folder=tmp_path / "out")
    assert run_stages(again, ["generate", "score"]) == []
    rows = {r["name"]: r["scores"]["attention_pck"] for r in summarise(again)["rows"]}
    assert rows["mine"]["count"] == 2
    assert rows["copy"]["skipped"] == 2
