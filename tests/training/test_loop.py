import json
import os
import subprocess
import sys
import time
from contextlib import nullcontext
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import yaml

from mvtrack.config.run import RunConfig
from mvtrack.config.tree import from_tree
from mvtrack.data.loader import BatchDataset
from mvtrack.geometry.camera import relative_pose
from mvtrack.models.reshoot_model import build_model, load_model
from mvtrack.training.ema import EMA
from mvtrack.training.objective import Objective, hash_seed
from mvtrack.training.optimizer import build_optimizer, freeze, learning_rate_factor, refuse_left_lock

ROOT = Path(__file__).parents[2]


@pytest.fixture
def config(small_run) -> RunConfig:
    return from_tree(RunConfig, small_run, "small_run")


def fitted_model(config: RunConfig, dataset: BatchDataset):
    model = build_model(config.model, config.train.seed)
    model.codec.fit([dataset.banks[0].clip(n, [0, 1], slice(0, 5)).video for n in range(3)], 0.5)
    return model


@pytest.fixture
def one_step(config):
    dataset = BatchDataset(config.data, 0, 2, 2)
    model = fitted_model(config, dataset)
    return config, model, Objective(config).prepare(dataset[0][0], model.codec)


@pytest.mark.parametrize("prediction", ["x0", "velocity"])
def test_perfect_prediction_has_no_flow_loss(one_step, prediction):
    config, model, step = one_step
    flow = replace(config.model.flow, prediction=prediction)
    config = replace(config, model=replace(config.model, flow=flow))
    answer = step.latents if prediction == "x0" else step.noise - step.latents

    def perfect(noisy, timestep, conditioning, tap_layers):
        torch.testing.assert_close(noisy[:, 0], step.latents[:, 0])  # the reference stays clean
        torch.testing.assert_close(timestep, 1000 * step.sigma)
        return model.dit(noisy, timestep, conditioning, tap_layers)._replace(prediction=answer)

    assert Objective(config)(perfect, step)["flow"].item() < 1e-10


def test_reference_outputs_get_no_gradient(one_step):
    config, model, step = one_step
    step.latents.requires_grad_(False)

    def zero_target(noisy, timestep, conditioning, tap_layers):
        out = model.dit(noisy, timestep, conditioning, tap_layers)
        prediction = torch.cat([out.prediction[:, :1] + 100, step.latents[:, 1:]], 1)
        return out._replace(prediction=prediction)

    assert Objective(config)(zero_target, step)["flow"].item() < 1e-10


def test_objective_is_weighted_sum(one_step):
    config, model, step = one_step
    parts = Objective(config)(model.dit, step)
    expected = parts["flow"] + config.loss.correspondence * parts["correspondence"]
    torch.testing.assert_close(parts["total"], expected)
    off = replace(config, loss=replace(config.loss, correspondence=0.0))
    assert "correspondence" not in Objective(off)(model.dit, step)


def test_native_cameras_reach_loss(config):
    """ReCamMaster's branches train on the batch's cameras, relative to the reference's first frame."""
    dit = replace(config.model.dit, pose_encoder=True, projector=True)
    config = replace(config, model=replace(config.model, dit=dit))
    dataset = BatchDataset(config.data, 0, 2, 2)
    model, batch = fitted_model(config, dataset), dataset[0][0]
    step = Objective(config).prepare(batch, model.codec)
    expected = relative_pose(batch.camera.c2w[:, 0, 0], batch.camera.c2w[:, 1, 4])[:, :3].flatten(1)
    torch.testing.assert_close(step.conditioning.poses[:, 1, 1], expected.float(), atol=1e-5, rtol=0)
    assert torch.equal(step.to(torch.device("cpu")).conditioning.poses, step.conditioning.poses)
    Objective(config)(model.dit, step)["total"].backward()
    assert all(block.cam_encoder.weight.grad.abs().sum() > 0 for block in model.dit.blocks)


def test_noise_depends_on_sample_alone(config):
    """The same sample gets the same noise, whatever batch it comes in."""
    whole = BatchDataset(config.data, 0, 4, 4)
    parts = BatchDataset(config.data, 0, 4, 1)
    model = fitted_model(config, whole)
    together = Objective(config).prepare(whole[1][0], model.codec)
    alone = [Objective(config).prepare(micro, model.codec) for micro in parts[1]]
    assert torch.equal(together.noise, torch.cat([p.noise for p in alone]))
    assert torch.equal(together.sigma, torch.cat([p.sigma for p in alone]))
    assert len(set(together.sigma.tolist())) > 1


def test_sample_seeds_do_not_collide():
    seeds = {hash_seed(s, n) for s in range(20) for n in range(500)}
    assert len(seeds) == 20 * 500
    assert all(0 <= s < 2**63 for s in seeds)


def test_freezing_follows_patterns(config):
    model = build_model(config.model).dit
    freeze(model, ("blocks.*.self_attn.*", "ray_encoder.*"))
    trained = {n for n, p in model.named_parameters() if p.requires_grad}
    assert "blocks.1.self_attn.q.weight" in trained
    assert "ray_encoder.net.0.bias" in trained
    assert not any("ffn" in n or "head." in n for n in trained)
    optimizer = build_optimizer(model, config.optim)
    assert sum(p.numel() for g in optimizer.param_groups for p in g["params"]) == sum(
        p.numel() for p in model.parameters() if p.requires_grad
    )
    freeze(model, ("blocks.*.ffn.*", "tracking_head.*", "blocks.*.cam_encoder.*", "logit_heads.1.*"))  # switched off
    assert all("ffn" in n for n, p in model.named_parameters() if p.requires_grad)
    with pytest.raises(ValueError, match=r"'blocks.\*.attn.\*' matches no parameter"):
        freeze(model, ("blocks.*.attn.*",))
    with pytest.raises(ValueError, match="nothing is left to train"):
        freeze(model, ("tracking_head.*",))


@pytest.mark.parametrize("name", ["adamw", "muon"])
def test_optimizers_lower_loss_and_resume(one_step, name):
    config, model, step = one_step
    config = replace(config, optim=replace(config.optim, name=name))

    def run(dit, optimizer, steps: int) -> list[float]:
        values = []
        for _ in range(steps):
            total = Objective(config)(dit, step)["total"]
            optimizer.zero_grad()
            total.backward()
            optimizer.step()
            values.append(total.item())
        return values

    optimizer = build_optimizer(model.dit, config.optim)
    before = run(model.dit, optimizer, 8)
    assert before[-1] < 0.9 * before[0]
    copy = build_model(config.model).dit
    copy.load_state_dict(model.dit.state_dict())
    resumed = build_optimizer(copy, config.optim)
    resumed.load_state_dict(deepcopy(optimizer.state_dict()))
    for group in resumed.param_groups:
        assert group["lr"] > 0
    assert run(copy, resumed, 3) == run(model.dit, optimizer, 3)


def test_learning_rate_follows_schedule(config):
    optim = replace(config.optim, warmup_steps=10, final_lr_ratio=0.1)
    factors = [learning_rate_factor(s, optim, 100) for s in range(100)]
    assert factors[0] == pytest.approx(0.1)
    assert max(factors) == factors[10] == pytest.approx(1)
    assert factors[-1] == pytest.approx(0.1, abs=0.01)
    assert learning_rate_factor(50, replace(optim, schedule="constant"), 100) == 1


@pytest.mark.parametrize(("minutes", "left"), [(1, False), (60, True)])
def test_stale_lock_raises(tmp_path, monkeypatch, minutes, left):
    monkeypatch.setenv("TORCH_EXTENSIONS_DIR", str(tmp_path))
    lock = tmp_path / "cpu_adam" / "lock"
    lock.parent.mkdir()
    lock.touch()
    os.utime(lock, (time.time() - 60 * minutes,) * 2)
    with pytest.raises(ValueError, match=f"{lock} is 60 minutes old.* delete that file") if left else nullcontext():
        refuse_left_lock("cpu_adam")


def test_ema_averages_trained_parameters(config):
    model = build_model(config.model).dit
    freeze(model, ("blocks.*",))
    engine = SimpleNamespace(module=model, optimizer=build_optimizer(model, config.optim))
    ema = EMA(engine, decay=0.5)
    before = {n: t.clone() for n, t in model.state_dict().items()}
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(1)
    ema.update(engine, step=1000)
    with ema.swapped_in(engine):
        averaged = {n: t.clone() for n, t in model.state_dict().items()}
    torch.testing.assert_close(averaged["blocks.0.ffn.0.weight"], before["blocks.0.ffn.0.weight"] + 0.5)
    torch.testing.assert_close(averaged["head.head.weight"], before["head.head.weight"] + 1)
    torch.testing.assert_close(model.state_dict()["blocks.0.ffn.0.weight"], before["blocks.0.ffn.0.weight"] + 1)


def run_train(tmp_path: Path, tree: dict, *arguments: str, expect: int = 0) -> subprocess.CompletedProcess:
    path = tmp_path / "run.yaml"
    path.write_text(yaml.safe_dump(tree))
    command = [sys.executable, str(ROOT / "mvtrack/train.py"), "--config", str(path), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, timeout=300, env=dict(os.environ))
    assert done.returncode == expect, done.stdout[-2000:] + done.stderr[-4000:]
    return done


def test_train_command_writes_model_and_resumes(tmp_path, small_run):
    run_dir = tmp_path / "run"
    run_train(tmp_path, small_run, f"train.run_dir={run_dir}")
    lines = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    logged = [line for line in lines if "loss/total" in line]
    assert [line["step"] for line in logged] == [2, 4]
    assert {"loss/flow", "loss/correspondence", "time/data_wait_share"} <= logged[0].keys()
    assert "validation/psnr_db" in lines[-1]
    assert list((run_dir / "tensorboard").iterdir())
    model = load_model(run_dir / "model")
    assert model.config.sizes == ((24, 32),)
    whole = (run_dir / "model" / "model.safetensors").read_bytes()

    # stopping halfway and going on gives the same weights as not stopping
    second = tmp_path / "second"
    run_train(tmp_path, small_run, f"train.run_dir={second}", "train.save_every=2", "train.stop_after=2")
    run_train(tmp_path, small_run, f"train.run_dir={second}", "--resume", "auto")
    resumed = load_model(second / "model").dit.state_dict()
    for name, tensor in model.dit.state_dict().items():
        torch.testing.assert_close(resumed[name], tensor, atol=1e-7, rtol=0, msg=name)
    assert len(whole) == (second / "model" / "model.safetensors").stat().st_size


def test_invalid_input_is_one_line_and_exit_code_2(tmp_path, small_run):
    done = run_train(tmp_path, small_run, "optim.lrr=1", expect=2)
    assert done.stderr.strip().splitlines()[-1].endswith("optim: unknown key 'lrr'; did you mean 'lr'?")
    assert "Traceback" not in done.stderr
    done = run_train(tmp_path, small_run, "train.init_from=nowhere", f"train.run_dir={tmp_path / 'r'}", expect=2)
    assert "no model at nowhere" in done.stderr


@pytest.mark.gpu
def test_bfloat16_trains_on_gpu(tmp_path, small_run):
    run_train(tmp_path, small_run, "train.precision=bf16", "train.steps=1", f"train.run_dir={tmp_path / 'r'}")
    rows = [json.loads(line) for line in (tmp_path / "r/metrics.jsonl").read_text().splitlines()]
    assert any(row.get("loss/total", 0) > 0 for row in rows)
    assert json.loads((tmp_path / "r/attempts.jsonl").read_text().splitlines()[0])["attention"] != "cpu"


def test_nonfinite_loss_stops_before_update(tmp_path, small_run):
    done = run_train(
        tmp_path, small_run, "optim.lr=1e30", f"train.run_dir={tmp_path / 'r'}", "optim.warmup_steps=0", expect=2
    )
    assert "the loss is not finite at step" in done.stderr
    assert "24x32/" in done.stderr


@pytest.mark.slow
def test_two_ranks_equal_one(tmp_path, small_run):
    """`deepspeed` with two CPU ranks: the same global batches, so the same losses and weights as one process."""
    run_train(tmp_path, small_run, f"train.run_dir={tmp_path / 'one'}", "train.log_every=1")
    launcher = Path(sys.executable).with_name("deepspeed")
    command = [launcher, "--num_gpus", "2", ROOT / "mvtrack/train.py", "--config", tmp_path / "run.yaml",
               f"train.run_dir={tmp_path / 'two'}", "train.log_every=1"]  # fmt: skip
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, cwd=tmp_path, timeout=300)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    logs = []
    for name in ("one", "two"):
        lines = [json.loads(line) for line in (tmp_path / name / "metrics.jsonl").read_text().splitlines()]
        logs.append([line["loss/total"] for line in lines if "loss/total" in line])
    assert logs[0] == pytest.approx(logs[1], abs=1e-5)
    one, two = (load_model(tmp_path / name / "model").dit.state_dict() for name in ("one", "two"))
    for name, tensor in one.items():
        torch.testing.assert_close(two[name], tensor, atol=1e-5, rtol=0, msg=name)
