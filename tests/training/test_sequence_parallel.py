"""Ranks that share every sample's tokens train like one rank alone: losses, weights, averages, validation."""

from copy import deepcopy

import pytest

from mvtrack.config.run import RunConfig
from mvtrack.config.tree import from_tree
from mvtrack.training.memory import estimate_training
from tests.training.test_joint_tracking import COMMON, HEAD
from tests.training.test_zero_matrix import assert_same_state, losses, metrics

TRACKS = COMMON | {"model__tracking": HEAD, "loss__correspondence": 0.1, "train__validate_every": 2}


def run_of(small_run: dict, **changes) -> RunConfig:
    tree = deepcopy(small_run)
    for key, value in changes.items():
        section, _, field = key.partition("__")
        tree[section][field] = value
    return from_tree(RunConfig, tree, "run")


def together(pool, one_rank, job, small_run, **settings) -> None:
    """Train alone and on all ranks of a pool, two of which share each sample; the runs agree."""
    settings = TRACKS | settings
    dit = small_run["model"]["dit"] | settings.pop("dit", {})
    alone = job("alone", model__dit=dit, **settings)
    assert one_rank.train(alone) == [None]
    shared = job("shared", model__dit=dit, **settings, train__sequence_parallel=2)
    assert pool.train(shared) == [None] * len(pool.ranks)
    assert losses(shared) == pytest.approx(losses(alone), abs=1e-5)
    assert metrics(shared, "validation/psnr_db") == pytest.approx(metrics(alone, "validation/psnr_db"), abs=1e-3)
    for part in ("self_attn", "ray_encoder"):
        name = f"grad_norm/{part}"
        assert metrics(shared, name) == pytest.approx(metrics(alone, name), rel=1e-4)
    assert_same_state(shared, alone, atol=2e-5)


@pytest.mark.parametrize(
    "settings",
    [
        pytest.param({"train__batch_size": 3}, id="joint"),
        pytest.param(
            {"dit": {"reference_attention": "own"}, "train__zero_stage": 3, "train__gradient_checkpointing": True,
             "train__checkpoint_keep": "attention"}, id="own, stage 3, recomputed",
            marks=pytest.mark.slow,
        ),
        pytest.param({"dit": {"attention": "factorised"}, "train__zero_stage": 2}, id="factorised, stage 2",
                     marks=pytest.mark.slow),
        pytest.param({"train__compile": True}, id="compiled", marks=pytest.mark.slow),
    ],
)  # fmt: skip
def test_two_ranks_share_what_one_does(two_ranks, one_rank, job, small_run, settings):
    together(two_ranks, one_rank, job, small_run, **settings)


@pytest.mark.slow
def test_samples_and_tokens_are_divided_at_once(four_ranks, one_rank, job, small_run):
    together(four_ranks, one_rank, job, small_run, train__zero_stage=1)


def test_what_does_not_divide_is_refused(two_ranks, job, small_run):
    with pytest.raises(ValueError, match=r"sequence_parallel 3 does not divide the 2 heads of model\.dit"):
        run_of(small_run, train__sequence_parallel=3)
    odd = small_run["data"]["banks"][0] | {"size": [12, 20]}
    with pytest.raises(ValueError, match="sequence_parallel 2 does not divide the 15 tokens of a frame of 12x20"):
        run_of(small_run, train__sequence_parallel=2, data__banks=[odd])
    many = small_run["model"]["dit"] | {"dim": 32, "num_heads": 4}
    errors = two_ranks.train(job(model__dit=many, train__sequence_parallel=4))
    assert all("train.sequence_parallel 4 does not divide 2 ranks" in error for error in errors)


def test_each_takes_its_share_of_work_and_memory(small_run):
    alone, shared = (run_of(small_run, train__sequence_parallel=count) for count in (1, 2))
    before, after = (estimate_training(run, world) for run, world in ((alone, 1), (shared, 2)))
    assert after.flops == before.flops / 2
    assert 0.4 * before.work < after.work < 0.8 * before.work
