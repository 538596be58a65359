"""What `loss.correspondence*` in a config does to a training step."""

from dataclasses import replace

import pytest
import torch

from mvtrack.config.losses import CorrespondenceLossConfig, LossConfig, PointMatchConfig
from mvtrack.config.run import RunConfig
from mvtrack.config.tree import from_tree
from mvtrack.correspondence.targets import CorrespondenceTargets, targets_from_depth, targets_from_tracks
from mvtrack.data.loader import Batch, BatchDataset
from mvtrack.training.objective import Objective


@pytest.fixture
def config(small_run) -> RunConfig:
    return from_tree(RunConfig, small_run, "small_run")


def with_loss(config: RunConfig, **changes) -> RunConfig:
    return replace(config, loss=replace(config.loss, **changes))


@pytest.fixture
def correspondence_targets(small_model):
    def targets(batch: Batch, config: RunConfig) -> CorrespondenceTargets:
        return Objective(config).prepare(batch, small_model.codec).targets["correspondence"]

    return targets


def test_plain_weight_sets_correspondence_weight(config, small_model):
    assert config.loss == LossConfig(correspondence=0.1)
    batch = BatchDataset(config.data, 0, 2, 2)[0][0]
    step = Objective(config).prepare(batch, small_model.codec)
    old = targets_from_depth(batch.depth, batch.camera, 4)
    assert torch.equal(step.targets["correspondence"].label, old.label)
    assert torch.equal(step.targets["correspondence"].weight, old.weight)


@pytest.mark.parametrize("source", ["tracks", "points"])
def test_targets_depend_on_sample_alone(config, correspondence_targets, source):
    settings = with_loss(config, correspondence_targets=source, correspondence_queries=13)
    together = correspondence_targets(BatchDataset(config.data, 0, 4, 4)[1][0], settings)
    alone = [correspondence_targets(batch, settings) for batch in BatchDataset(config.data, 0, 4, 1)[1]]
    assert together.query.shape == (4, 13)
    assert together.grid == (6, 8)
    for b, one in enumerate(alone):
        for name in ("query", "label", "weight"):
            assert torch.equal(getattr(together, name)[b], getattr(one, name)[0]), name
    assert len({tuple(row) for row in together.query.tolist()}) == 4


def test_track_targets_cover_all_views_and_frames(config, correspondence_targets):
    batch = BatchDataset(config.data, 0, 2, 2)[0][0]
    every = correspondence_targets(
        batch, with_loss(config, correspondence_targets="tracks", correspondence_queries=None)
    )
    again = targets_from_tracks(batch.tracks, (24, 32), 4, num_queries=None)
    assert torch.equal(every.query, again.query)
    assert torch.equal(every.weight, again.weight)
    assert (every.weight.sum((0, 1)) > 0).all()


def test_point_targets_match_across_time_on_request(config, correspondence_targets):
    batch = BatchDataset(config.data, 0, 2, 2)[0][0]
    settings = with_loss(
        config, correspondence_targets="points", correspondence_matches=PointMatchConfig(pairs="same_time")
    )
    targets = correspondence_targets(batch, settings)
    frame = targets.own_frame % 2
    other_time = torch.arange(2) != frame[..., None]
    assert not (targets.weight.amax(2) * other_time).any()


def test_layers_average_and_log_apart(config, small_model):
    batch = BatchDataset(config.data, 0, 2, 2)[0][0]
    both = with_loss(config, correspondence_layers=(0, 1))
    step = Objective(config).prepare(batch, small_model.codec)
    parts = Objective(both)(small_model.dit, step)
    single = [
        Objective(with_loss(config, correspondence_layers=(i,)))(small_model.dit, step)["correspondence"]
        for i in (0, 1)
    ]
    torch.testing.assert_close(parts["correspondence"], (single[0] + single[1]) / 2)
    torch.testing.assert_close(parts["correspondence_0"], single[0].detach())
    torch.testing.assert_close(parts["correspondence_1"], single[1].detach())
    torch.testing.assert_close(parts["total"], parts["flow"] + 0.1 * parts["correspondence"])
    assert "correspondence_1" not in Objective(config)(small_model.dit, step)


def test_config_options_reach_loss(config, small_model):
    batch = BatchDataset(config.data, 0, 2, 2)[0][0]
    step = Objective(config).prepare(batch, small_model.codec)
    default = Objective(config)(small_model.dit, step)["correspondence"]
    options = CorrespondenceLossConfig(heads="logit_mean")
    other = Objective(with_loss(config, correspondence_options=options))(small_model.dit, step)["correspondence"]
    assert other != default


@pytest.mark.parametrize(
    ("loss", "message"),
    [
        ({"correspondence_layers": [0, 2]}, r"layer 2 must lie in \[0, 1\]"),
        ({"correspondence_layers": [1, 0]}, "once, in ascending order"),
        ({"correspondence_layers": []}, "once, in ascending order"),
        ({"correspondence": -1.0}, "must be at least 0"),
        ({"correspondence_queries": 0}, "must be at least 1"),
        ({"correspondence_targets": "flow"}, "must be one of depth, tracks, points"),
        ({"correspondence_options": {"heads": "mlp"}}, r"set model.logit_heads: \[1\], got \[\]"),
        ({"correspondence_options": {"label_scope": "best_view"}}, "set correspondence_targets: points"),
        ({"correspondence_matches": {"min_confidence": 0.5}}, "training data does not have"),
        ({"correspondence_matches": {"cycle_cell": 2}}, "did you mean 'cycle_cells'"),
    ],
)
def test_conflicting_settings_name_fix(small_run, loss, message):
    tree = small_run | {"loss": {"correspondence": 0.1} | loss}
    with pytest.raises(ValueError, match=message):
        from_tree(RunConfig, tree, "file.yaml")


def test_missing_layer_raises(small_model, unchecked):
    with pytest.raises(ValueError, match=r"tap_layers \(2,\) must lie in \[0, 1\]"):
        small_model.dit(torch.zeros(1, 2, 2, 12, 6, 8), torch.zeros(1), tap_layers=(2,))
