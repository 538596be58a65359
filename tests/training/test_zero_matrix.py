"""Every ZeRO stage and number of ranks trains alike, and goes on from any other's checkpoint as if never stopped."""

import json
from functools import cache
from pathlib import Path

import pytest
import torch

from mvtrack.training.checkpoint import CheckpointReader, checkpoints
from tests.training.conftest import job_in

STEPS = 6
COMMON = {
    "train__steps": STEPS, "train__batch_size": 4, "train__log_every": 1, "train__save_every": 3,
    "train__validate_every": 100, "loss__correspondence": 0.1,
}  # fmt: skip


def reader_of(tree: dict, step: int | None = None) -> CheckpointReader:
    found = checkpoints(Path(tree["train"]["run_dir"]) / "checkpoints")
    return CheckpointReader(found[-1] if step is None else next(p for p in found if int(p.name[5:]) == step))


def metrics(tree: dict, name: str) -> list[float]:
    path = Path(tree["train"]["run_dir"]) / "metrics.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    return [row[name] for row in rows if name in row]


def losses(tree: dict) -> list[float]:
    return metrics(tree, "loss/total")


def assert_same_state(tree: dict, other: dict, atol: float) -> None:
    """Weights, averages and optimiser state of the newest checkpoints agree."""
    one, two = reader_of(tree), reader_of(other)
    assert one.state.parameters == two.state.parameters
    assert one.state.optimizer_steps == two.state.optimizer_steps
    for kind in ("weight", "ema", "exp_avg", "exp_avg_sq"):
        for name in one.state.parameters:
            torch.testing.assert_close(
                one.pieces.read(kind, name), two.pieces.read(kind, name), atol=atol, rtol=0, msg=f"{kind} of {name}"
            )


@pytest.fixture(scope="module")
def reference(one_rank, small_run, tmp_path_factory):
    """One rank, stage 0, float32, not interrupted."""
    tree = job_in(tmp_path_factory.mktemp("reference") / "run", small_run, **COMMON)
    assert one_rank.train(tree) == [None]
    assert len(losses(tree)) == STEPS
    return tree


@pytest.fixture(scope="module")
def uninterrupted(two_ranks, small_run, tmp_path_factory):
    """Two ranks at a stage and a precision: each is trained once."""

    @cache
    def train(stage: int, precision: str = "fp32") -> dict:
        settings = {"train__zero_stage": stage, "train__precision": precision, **COMMON}
        tree = job_in(tmp_path_factory.mktemp("uninterrupted") / "run", small_run, **settings)
        assert two_ranks.train(tree) == [None, None]
        return tree

    return train


@pytest.mark.slow
def test_branches_train_equally_recomputed_and_partitioned(one_rank, two_ranks, job, small_run):
    """ReCamMaster's branches: a whole model on one rank, and stage 3 on two with each way to recompute blocks."""
    dit = small_run["model"]["dit"] | {"pose_encoder": True, "projector": True}
    plain = job("plain", model__dit=dit, **COMMON)
    assert one_rank.train(plain) == [None]
    for keep in ("nothing", "attention"):
        recompute = {"train__gradient_checkpointing": True, "train__checkpoint_keep": keep}
        tree = job(keep, model__dit=dit, train__zero_stage=3, **recompute, **COMMON)
        assert two_ranks.train(tree) == [None, None]
        assert losses(tree) == pytest.approx(losses(plain), abs=1e-5)


@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_two_ranks_equal_one(uninterrupted, reference, stage):
    tree = uninterrupted(stage)
    assert losses(tree) == pytest.approx(losses(reference), abs=1e-5)
    assert_same_state(tree, reference, atol=2e-5)


@pytest.mark.parametrize("stage", [1, 3])
def test_micro_batches_equal_a_whole_one(two_ranks, job, reference, stage):
    tree = job(train__zero_stage=stage, train__micro_batch_size=2, **COMMON)
    assert two_ranks.train(tree) == [None, None]
    assert losses(tree) == pytest.approx(losses(reference), abs=1e-5)
    assert_same_state(tree, reference, atol=2e-5)


@pytest.mark.parametrize(
    ("precision", "atol", "stage"),
    [*(("fp32", 1e-7, stage) for stage in range(4)), ("bf16", 1e-6, 3),
     pytest.param("bf16", 1e-6, 1, marks=pytest.mark.slow)],
)  # fmt: skip
def test_resumed_run_equals_uninterrupted(two_ranks, job, uninterrupted, stage, precision, atol):
    """In bf16 the masters come back to the bit, and working copies are their rounding: the runs agree exactly too."""
    whole = uninterrupted(stage, precision)
    parts = job(train__zero_stage=stage, train__precision=precision, **COMMON)
    for stop in (3, None):
        parts["train"]["stop_after"] = stop
        assert two_ranks.train(parts, resume="auto") == [None, None]
    assert losses(parts) == pytest.approx(losses(whole), abs=atol)
    assert_same_state(parts, whole, atol=atol)


def test_resume_may_change_stage_and_ranks(one_rank, two_ranks, job, reference):
    """A step at each stage and number of ranks, none of them twice in a row: the same run."""
    tree = job(**COMMON)
    places = ((two_ranks, 0), (one_rank, 3), (two_ranks, 1), (one_rank, 2), (two_ranks, 3), (one_rank, 0))
    for step, (pool, stage) in enumerate(places, start=1):
        tree["train"] |= {"zero_stage": stage, "stop_after": None if step == STEPS else step}
        assert pool.train(tree, resume="auto") == [None] * len(pool.ranks)
    assert losses(tree) == pytest.approx(losses(reference), abs=1e-5)
    assert_same_state(tree, reference, atol=2e-5)


def test_checkpoint_holds_frozen_weights(two_ranks, one_rank, job):
    """With a trainable subset only that is in the optimiser and in each checkpoint; the rest is written once."""
    tree = job(**COMMON, optim__trainable=["blocks.*.self_attn.*", "ray_encoder.*"])
    tree["train"] |= {"zero_stage": 3, "stop_after": 3}
    assert two_ranks.train(tree) == [None, None]
    reader = reader_of(tree)
    assert all("self_attn" in n or "ray_encoder" in n for n in reader.state.parameters)
    everything = dict(reader.weights())
    assert {"head.head.weight", "blocks.0.ffn.0.weight"} <= everything.keys()
    tree["train"] |= {"zero_stage": 0, "stop_after": None}
    assert one_rank.train(tree, resume="auto") == [None]
    from mvtrack.models.reshoot_model import load_model

    model = load_model(Path(tree["train"]["run_dir"]) / "model")
    torch.testing.assert_close(model.dit.head.head.weight, everything["head.head.weight"])
    assert not torch.equal(model.dit.blocks[0].self_attn.q.weight, everything["blocks.0.self_attn.q.weight"])


@pytest.mark.slow
@pytest.mark.parametrize("stage", [1, 3])
def test_four_ranks_equal_one(four_ranks, job, reference, stage):
    tree = job(train__zero_stage=stage, **COMMON)
    assert four_ranks.train(tree) == [None] * 4
    assert losses(tree) == pytest.approx(losses(reference), abs=1e-5)
    assert_same_state(tree, reference, atol=2e-5)


@pytest.mark.slow
@pytest.mark.parametrize(("stage", "parameters"), [(1, False), (2, False), (3, False), (3, True)])
def test_cpu_offload_equals_none(two_ranks, job, reference, stage, parameters):
    """DeepSpeed's own CPU Adam (compiled at first use) with the state in host memory."""
    tree = job(train__zero_stage=stage, train__offload_optimizer=True, train__offload_parameters=parameters, **COMMON)
    tree["train"]["stop_after"] = 3
    assert two_ranks.train(tree) == [None, None]
    tree["train"]["stop_after"] = None
    assert two_ranks.train(tree, resume="auto") == [None, None]
    assert losses(tree) == pytest.approx(losses(reference), abs=1e-5)
    assert_same_state(tree, reference, atol=2e-5)
