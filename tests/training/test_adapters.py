"""Training LoRAs: adapters beside frozen weights train alike on any ranks, survive a kill, and leave as files."""

import json
import os
import signal
import subprocess
import sys
from copy import deepcopy
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml

from mvtrack.cli.export import main as export
from mvtrack.config.run import RunConfig
from mvtrack.config.training import LoRAConfig, OptimConfig, TrainConfig
from mvtrack.config.tree import from_tree
from mvtrack.data.loader import BatchDataset
from mvtrack.models.pca_codec import build_codec
from mvtrack.models.reshoot_model import load_model, save_model
from mvtrack.models.weights.lora import LoRA, LowRank, merge_all, merge_lora
from mvtrack.models.weights.lora_files import write_lora
from mvtrack.training.adapters import add_adapters, with_adapters
from mvtrack.training.checkpoint import CheckpointReader, checkpoints
from mvtrack.training.memory import estimate_training
from mvtrack.training.optimizer import build_optimizer, freeze
from mvtrack.training.run import _first_weights
from tests.training.conftest import job_in

RANK, ALPHA = 3, 5.0
ADAPTED = 2 * (4 * 2 * 24 + 2 * (24 + 32)) * RANK  # 2 blocks: q, k, v, o of 24 x 24; two layers of 24 and 32
LORA = {"rank": RANK, "alpha": ALPHA}
COMMON = {"train__steps": 6, "train__batch_size": 4, "train__log_every": 1, "train__save_every": 3,
          "train__validate_every": 6}  # fmt: skip


@pytest.fixture
def adapted(small_model):
    """The network of `small_model` with adapters that add nothing yet."""
    network = deepcopy(small_model.dit)
    network.head.head.weight.data *= 10  # from scratch it says next to nothing
    own = {name: value.detach().clone() for name, value in network.named_parameters()}
    add_adapters(network, LoRAConfig(RANK, ALPHA))
    for name, value in with_adapters(network, iter(own.items()), seed=3):
        network.get_parameter(name).data.copy_(value)
    return network


def inputs(generator) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.randn(1, 2, 2, 12, 6, 8, generator=generator), torch.tensor([300.0])


def test_fresh_adapters_add_nothing_and_merged_equals_stacked(small_model, adapted, generator):
    given, pairs = inputs(generator), {}
    merged = deepcopy(small_model.dit)
    merged.head.head.weight.data *= 10
    plain = merged(*given).prediction
    torch.testing.assert_close(adapted(*given).prediction, plain, atol=1e-6, rtol=0)
    for name, module in adapted.named_modules():
        if hasattr(module, "lora_B"):
            up, down = module.lora_B["default"].weight, module.lora_A["default"].weight
            up.data.normal_(std=0.1, generator=generator)
            pairs[name] = LowRank(down.detach(), up.detach(), ALPHA / RANK)
    merge_lora(merged, LoRA(Path("here"), "peft", pairs, {}))
    stacked = adapted(*given).prediction
    assert (stacked - plain).abs().max() > 0.05
    torch.testing.assert_close(merged(*given).prediction, stacked, atol=1e-6, rtol=0)


@pytest.mark.parametrize("name", ["muon", "adamw"])
def test_optimizer_holds_adapters_and_what_is_named_beside_them(adapted, name):
    freeze(adapted, ("ray_encoder.*", "blocks.*.self_attn.q.bias"))
    optimizer = build_optimizer(adapted, OptimConfig(name=name))
    held = [p for group in optimizer.param_groups for p in group["params"]]
    beside = sum(p.numel() for p in adapted.ray_encoder.parameters()) + 2 * 24
    assert sum(p.numel() for p in held) == ADAPTED + beside
    if name == "muon":
        assert sum(p.numel() for p in optimizer.muon.param_groups[0]["params"]) == ADAPTED
    with pytest.raises(ValueError, match=r"trains blocks.0.self_attn.q.weight whole and optim.lora.targets adapts it"):
        freeze(adapted, ("blocks.0.*",))


@pytest.fixture(scope="module")
def base(small_model, tmp_path_factory) -> Path:
    return save_model(small_model, tmp_path_factory.mktemp("base")).parent


def lora_job_in(run_dir: Path, small_run: dict, base: Path, trainable=(), **changes) -> dict:
    tree = job_in(run_dir, small_run, **COMMON | changes)
    tree["optim"] |= {"lora": LORA, "trainable": list(trainable)}
    tree["train"]["init_from"] = str(base)
    return tree


@pytest.fixture
def lora_job(small_run, tmp_path, base):
    return lambda name, **changes: lora_job_in(tmp_path / name, small_run, base, **changes)


@pytest.fixture(scope="module")
def plain(one_rank, small_run, base, tmp_path_factory) -> dict:
    """One rank, stage 0, float32, not interrupted."""
    tree = lora_job_in(tmp_path_factory.mktemp("plain") / "run", small_run, base)
    assert one_rank.train(tree) == [None]
    return tree


def newest(tree: dict) -> CheckpointReader:
    return CheckpointReader(checkpoints(Path(tree["train"]["run_dir"]) / "checkpoints")[-1])


def assert_same_state(tree: dict, other: dict, atol: float) -> None:
    one, two = newest(tree), newest(other)
    assert one.state.parameters == two.state.parameters
    assert sum(torch.Size(s).numel() for s in one.state.parameters.values()) == ADAPTED
    for kind in ("weight", "ema", "exp_avg", "exp_avg_sq"):
        for name in one.state.parameters:
            found = [reader.pieces.read(kind, name) for reader in (one, two)]
            torch.testing.assert_close(*found, atol=atol, rtol=0, msg=f"{kind} of {name}")


@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_two_ranks_equal_one_and_the_base_stays(two_ranks, lora_job, plain, base, stage):
    """Also what the run leaves: its model is the base with its LoRA file added, to the bit."""
    tree = lora_job("ranks", train__zero_stage=stage)
    assert two_ranks.train(tree) == [None, None]
    assert_same_state(tree, plain, atol=2e-5)
    run = Path(tree["train"]["run_dir"])
    start, made = load_model(base), load_model(run / "model")
    before = start.dit.blocks[0].ffn[2].weight.clone()
    merge_all(start.dit, (str(run / "lora"),))
    assert not torch.equal(start.dit.blocks[0].ffn[2].weight, before)
    for name, value in start.dit.state_dict().items():
        assert torch.equal(made.dit.state_dict()[name], value), name
    scores = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert any("validation/psnr_db" in row for row in scores)


@pytest.mark.parametrize(("precision", "stage"), [("bf16", 1), ("fp32", 3)])
def test_resumed_run_equals_uninterrupted(two_ranks, lora_job, precision, stage):
    changes = {"train__precision": precision, "train__zero_stage": stage, "train__validate_every": 100}
    whole, parts = lora_job("whole", **changes), lora_job("parts", **changes)
    assert two_ranks.train(whole) == [None, None]
    for stop in (3, None):
        parts["train"]["stop_after"] = stop
        assert two_ranks.train(parts, resume="auto") == [None, None]
    assert_same_state(parts, whole, atol=0)


def test_killed_run_equals_uninterrupted(one_rank, lora_job, plain, tmp_path):
    """SIGKILL in the middle of writing a checkpoint."""
    killed = lora_job("killed", train__save_every=1, train__validate_every=100)
    (tmp_path / "killed.yaml").write_text(yaml.safe_dump(killed))
    script, root = Path(__file__).with_name("dying_train.py"), str(Path(__file__).parents[2])
    program = [sys.executable, str(script), "--config", str(tmp_path / "killed.yaml")]
    environment = os.environ | {"DIE_AT": "20", "PYTHONPATH": root}
    done = subprocess.run(program, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == -signal.SIGKILL, done.stderr[-1000:]
    assert checkpoints(tmp_path / "killed/checkpoints")
    assert one_rank.train(killed, resume="auto") == [None]
    assert_same_state(killed, plain, atol=0)
    [error] = one_rank.train(killed | {"optim": killed["optim"] | {"lora": {"rank": 2}}}, resume="auto")
    assert "optim.lora.rank was 3, is 2" in error


def test_exports_hold_the_same_in_every_layout(one_rank, lora_job, base, tmp_path, capsys):
    tree = lora_job("run", train__steps=2, train__validate_every=100)
    tree["optim"]["name"] = "muon"  # adapters are matrices alone: AdamW beside it has nothing
    assert one_rank.train(tree) == [None]
    run = Path(tree["train"]["run_dir"])
    expected = load_model(run / "model").dit.state_dict()
    checkpoint = str(checkpoints(run / "checkpoints")[-1])
    for layout in ("peft", "diffusers", "comfyui", "diffsynth"):
        for source in (checkpoint, str(run / "lora")):
            out = tmp_path / f"{layout}{Path(source).name}"
            assert export([source, str(out), "--lora-layout", layout]) == 0
            again = load_model(base).dit
            merge_all(again, (str(out),))
            for name, value in again.state_dict().items():
                torch.testing.assert_close(value, expected[name], atol=1e-7, rtol=0)
    assert export([checkpoint, str(tmp_path / "out"), "--lora-layout", "peft", "--half"]) == 2
    assert "--half has no effect" in capsys.readouterr().err


def test_whole_parameters_beside_a_lora_are_in_the_model_alone(one_rank, lora_job, base, tmp_path, capsys):
    tree = lora_job("run", trainable=["ray_encoder.*"], train__steps=2, train__validate_every=100)
    assert one_rank.train(tree) == [None]
    run = Path(tree["train"]["run_dir"])
    assert not (run / "lora").exists()
    start, made = load_model(base).dit.state_dict(), load_model(run / "model").dit.state_dict()
    assert {n for n in start if not torch.equal(start[n], made[n])} >= {"blocks.0.self_attn.q.weight"} | {
        n for n in start if n.startswith("ray_encoder.")
    }
    checkpoint = str(checkpoints(run / "checkpoints")[-1])
    assert export([checkpoint, str(tmp_path / "out"), "--lora-layout", "peft"]) == 2
    assert "trains ray_encoder." in capsys.readouterr().err


def run_config(small_run: dict, **changes) -> RunConfig:
    config = from_tree(RunConfig, small_run, "small_run")
    return replace(config, **changes)


def test_a_run_starts_from_base_and_lora(small_run, base, adapted, tmp_path):
    pairs = {"blocks.1.ffn.0": LowRank(torch.ones(2, 24), torch.ones(32, 2), 0.5)}
    write_lora(LoRA(Path("here"), "peft", pairs, {}), tmp_path, "comfyui")
    lora = str(tmp_path / "lora.safetensors")
    config = run_config(small_run, train=TrainConfig(init_from=str(base), init_lora=(f"{lora}:2",)))
    weights = dict(_first_weights(config, None, build_codec(config.model.codec), object.__new__(BatchDataset)))
    before = load_model(base).dit.state_dict()
    for name, value in weights.items():  # 2 * 0.5 * (1 + 1)
        torch.testing.assert_close(value, before[name] + (2.0 if name == "blocks.1.ffn.0.weight" else 0.0))
    Path(lora).write_bytes(Path(lora).read_bytes()[:-9])
    with pytest.raises(ValueError, match="lora.safetensors is not a whole safetensors file"):
        _first_weights(config, None, build_codec(config.model.codec), object.__new__(BatchDataset))


def test_memory_counts_optimiser_state_of_adapters_alone(small_run):
    optim = OptimConfig(lora=LoRAConfig(RANK), trainable=())
    parts = estimate_training(run_config(small_run, optim=optim), device="cpu").parts
    assert parts["optimiser state"] == 8 * ADAPTED
    assert parts["average"] == 4 * ADAPTED
    whole = estimate_training(run_config(small_run, optim=OptimConfig()), device="cpu")
    assert parts["weights"] == whole.parts["weights"] + 4 * ADAPTED


def test_what_cannot_be_meant_is_refused(small_run, adapted, small_model):
    with pytest.raises(ValueError, match=r"optim.lora freezes .* set optim.trainable: \[\]"):
        OptimConfig(lora=LoRAConfig())
    with pytest.raises(ValueError, match="train.init_lora is added to the model of train.init_from"):
        TrainConfig(init_lora=("a.safetensors",))
    with pytest.raises(ValueError, match="'blocks.*.self_attn.z' matches no linear layer"):
        add_adapters(deepcopy(small_model.dit), LoRAConfig(targets=("blocks.*.self_attn.z",)))
    config = run_config(small_run, optim=OptimConfig(lora=LoRAConfig(), trainable=()))
    with pytest.raises(ValueError, match="optim.lora is added to a trained model: name it in train.init_from"):
        _first_weights(config, None, build_codec(config.model.codec), object.__new__(BatchDataset))
