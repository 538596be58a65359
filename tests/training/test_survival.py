"""Runs that meet trouble: they stop before harm, say what happened and what to do, and go on as if nothing had been."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import yaml

from mvtrack.training.checkpoint import CheckpointReader, checkpoints, prune, remove_leftovers
from mvtrack.training.run_table import table
from tests.training.conftest import job_in

ROOT = Path(__file__).parents[2]
COMMON = {"train__steps": 6, "train__batch_size": 2, "train__log_every": 1, "train__save_every": 2,
          "train__validate_every": 100}  # fmt: skip


def metrics(tree: dict) -> list[dict]:
    path = Path(tree["train"]["run_dir"]) / "metrics.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()]


def saved(tree: dict) -> list[Path]:
    return checkpoints(Path(tree["train"]["run_dir"]) / "checkpoints")


def weights(checkpoint: Path) -> dict[str, torch.Tensor]:
    return dict(CheckpointReader(checkpoint).weights())


def hidden_files(tree: dict) -> list[Path]:
    return [p for p in (Path(tree["train"]["run_dir"]) / "checkpoints").iterdir() if p.name.startswith(".")]


# Values that are not finite


@pytest.mark.parametrize(("what", "stage"), [("loss", 0), ("gradient", 1), ("gradient", 2), ("loss", 3)])
def test_nonfinite_value_stops_all_ranks_before_update(two_ranks, job, stage, what):
    tree = job(train__zero_stage=stage, **COMMON)
    errors = two_ranks.train(tree, faults={"1": {"not_finite": {"what": what, "step": 3}}})
    for error in errors:
        assert "not finite at step 3" in error
        assert "the weights were not touched" in error
        assert "train.on_nonfinite: skip" in error
    assert "24x32/" in errors[1]  # the clips of the rank it happened on
    if what == "loss":
        assert "flow, total" in errors[1]
    assert [p.name for p in saved(tree)] == ["step_0000002"]
    assert two_ranks.train(tree, resume="auto") == [None, None]


@pytest.mark.parametrize(("what", "stage"), [("gradient", 0), ("loss", 1), ("loss", 2), ("gradient", 3)])
def test_skipping_leaves_update_out_on_all_ranks(two_ranks, job, stage, what):
    """After the skipped step weights and averages are what they were before it; later steps go on."""
    tree = job(train__zero_stage=stage, train__on_nonfinite="skip", **(COMMON | {"train__save_every": 1}))
    tree["train"]["keep_last"] = 10
    fault = {"1": {"not_finite": {"what": what, "step": 3}}}
    assert two_ranks.train(tree, faults=fault) == [None, None]
    assert [row["skipped_updates"] for row in metrics(tree) if "skipped_updates" in row] == [0, 0, 0, 1, 1, 1]
    before, after, later = (weights(p) for p in saved(tree)[2:5])
    for name, tensor in before.items():
        assert torch.equal(after[name], tensor), name
    assert any(not torch.equal(later[name], tensor) for name, tensor in before.items())
    assert all(t.isfinite().all() for t in later.values())
    assert CheckpointReader(saved(tree)[-1]).state.optimizer_steps == 5


def test_skipping_stops_at_its_limit(one_rank, job):
    tree = job(train__on_nonfinite="skip", train__max_skipped=2, optim__lr=1e30, optim__warmup_steps=0, **COMMON)
    [error] = one_rank.train(tree)
    assert "more than train.max_skipped = 2 updates were skipped" in error


# Disks


def test_full_disk_keeps_previous_checkpoint(two_ranks, job):
    """One rank fails; all stop with the reason, nothing half-written stays, and the run goes on from the last save."""
    tree = job(train__zero_stage=2, **COMMON)
    errors = two_ranks.train(tree, faults={"1": {"full_disk": {"after_saves": 1}}})
    assert "another rank could not write; earlier checkpoints are untouched" in errors[0]
    assert "No space left on device" in errors[1]
    assert [p.name for p in saved(tree)] == ["step_0000002"]
    assert hidden_files(tree) == []
    assert two_ranks.train(tree, resume="auto") == [None, None]
    assert saved(tree)[-1].name == "step_0000006"


def test_refused_write_leaves_no_checkpoint(one_rank, job):
    tree = job(**COMMON)
    [error] = one_rank.train(tree, faults={"0": {"small_files": {"limit": 40_000}}})
    assert "cannot save a checkpoint" in error
    assert saved(tree) == []
    assert hidden_files(tree) == []


def test_unwritable_folder_raises(one_rank, job, tmp_path):
    (tmp_path / "file").write_text("in the way")
    tree = job(**COMMON)
    tree["train"]["run_dir"] = str(tmp_path / "file/run")
    [error] = one_rank.train(tree)
    assert "cannot write to run directory" in error
    assert "set train.run_dir" in error


# Checkpoints that are not what they should be


@pytest.fixture(scope="module")
def finished_run(two_ranks, small_run, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("finished") / "run"
    assert two_ranks.train(job_in(folder, small_run, **COMMON)) == [None, None]
    return folder


@pytest.fixture
def finished(finished_run, job):
    """Its config, and a copy of its folder that may be harmed."""
    tree = job(**COMMON)
    shutil.copytree(finished_run, tree["train"]["run_dir"], symlinks=True)
    return tree


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        ("missing shard", "is incomplete: rank_00001.safetensors is missing; resume from an older one"),
        ("truncated", "it is truncated or was changed; resume from an older checkpoint"),
        ("overwritten", "is damaged"),
        ("state", "state.json is damaged"),
        ("format", "has format 'mvtrack-checkpoint-0', this version reads 'mvtrack-checkpoint-1'"),
    ],
)
def test_damaged_checkpoints_raise(two_ranks, finished, harm, message):
    newest = saved(finished)[-1]
    shard = newest / "rank_00001.safetensors"
    if harm == "missing shard":
        shard.unlink()
    elif harm == "truncated":
        os.truncate(shard, shard.stat().st_size - 5)
    elif harm == "overwritten":
        shard.write_bytes(b"\xff" * shard.stat().st_size)
    elif harm == "state":
        (newest / "state.json").write_text("{")
    else:
        text = (newest / "state.json").read_text()
        (newest / "state.json").write_text(text.replace("mvtrack-checkpoint-1", "mvtrack-checkpoint-0"))
    finished["train"]["steps"] = 6
    for error in two_ranks.train(finished, resume="auto"):
        assert message in error
        assert newest.name in error
    older = str(saved(finished)[0] if harm != "missing shard" else saved(finished)[-2])
    assert two_ranks.train(finished, resume=older) == [None, None]


def test_changed_config_raises_with_differences(one_rank, two_ranks, finished):
    finished["optim"]["lr"] = 0.003
    finished["loss"]["correspondence"] = 0.2
    errors = two_ranks.train(finished, resume="auto")
    for error in errors:
        assert "loss.correspondence was 0.1, is 0.2; optim.lr was 0.002, is 0.003" in error
        assert "--accept-changes" in error
    finished["train"]["steps"] = 8
    assert two_ranks.train(finished, resume="auto", accept_changes=True) == [None, None]
    assert saved(finished)[-1].name == "step_0000008"


def test_changeable_settings_resume(one_rank, finished):
    finished["train"] |= {"micro_batch_size": 2, "log_every": 2, "zero_stage": 1, "stop_after": 6}
    assert one_rank.train(finished, resume="auto") == [None]


def test_existing_run_is_not_overwritten(one_rank, finished):
    [error] = one_rank.train(finished)
    assert "holds a run already: pass --resume auto to go on with it, or set train.run_dir" in error


def test_retention_keeps_last_checkpoints(tmp_path):
    for step in (2, 4, 6, 8, 10):
        folder = tmp_path / f"step_{step:07d}"
        folder.mkdir()
        (folder / "state.json").write_text("{}")
    (tmp_path / "step_0000012").mkdir()  # unfinished: no state.json
    prune(tmp_path, keep_last=2, keep_every=4, keep_step=2)
    assert [p.name[-2:] for p in checkpoints(tmp_path)] == ["02", "04", "08", "10"]


def test_leftovers_of_killed_save_are_removed(tmp_path):
    for name in (".step_0000004.partial", ".step_0000002.old", "step_0000002", ".step_0000006.old"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "state.json").write_text(name)
    remove_leftovers(tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["step_0000002", "step_0000006"]
    assert (tmp_path / "step_0000002/state.json").read_text() == "step_0000002"


# Processes: locks, signals, ports, death


def start(tmp_path: Path, tree: dict, *arguments: str, script: Path | None = None, **environment) -> subprocess.Popen:
    path = tmp_path / "run.yaml"
    path.write_text(yaml.safe_dump(tree))
    command = [sys.executable, str(script or ROOT / "mvtrack/train.py"), "--config", str(path), *arguments]
    return subprocess.Popen(
        command, cwd=tmp_path, env={**os.environ, "OMP_NUM_THREADS": "1", **environment}, text=True,
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
    )  # fmt: skip


def wait_for_step(tree: dict, step: int, process: subprocess.Popen) -> None:
    path = Path(tree["train"]["run_dir"]) / "heartbeat/rank_00000"
    for _ in range(1200):
        if path.exists() and int((path.read_text() or "0").split()[0]) >= step:
            return
        assert process.poll() is None, process.stderr.read()[-3000:]
        time.sleep(0.05)
    raise AssertionError("the run did not start")


def test_run_folder_is_locked_and_sigterm_saves(one_rank, job, tmp_path):
    """A second run is refused while the first runs; SIGTERM makes that save and end cleanly; it goes on afterwards."""
    tree = job(**(COMMON | {"train__steps": 100_000, "train__save_every": 100_000}))
    first = start(tmp_path, tree)
    wait_for_step(tree, 3, first)
    assert "running" in table(tmp_path)
    [error] = one_rank.train(tree, resume="auto")
    assert "is in use by process" in error
    first.send_signal(signal.SIGTERM)
    _, log = first.communicate(timeout=60)
    assert first.returncode == 0, log
    assert "asked to stop: saved at step" in log
    [checkpoint] = saved(tree)
    step = CheckpointReader(checkpoint).state.progress.step
    assert step >= 3
    assert "stopped" in table(tmp_path)
    assert (tmp_path / "run/stopped_by_signal").exists()
    tree["train"] |= {"stop_after": step + 2}
    assert one_rank.train(tree, resume="auto") == [None]
    assert saved(tree)[-1].name == f"step_{step + 2:07d}"
    assert not (tmp_path / "run/stopped_by_signal").exists()
    assert len((tmp_path / "run/attempts.jsonl").read_text().splitlines()) == 2


def test_port_in_use_raises(job, tmp_path):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        address = {"RANK": "0", "WORLD_SIZE": "2", "LOCAL_RANK": "0", "MASTER_ADDR": "127.0.0.1"}
        process = start(tmp_path, job(**COMMON), MASTER_PORT=str(taken.getsockname()[1]), **address)
        _, log = process.communicate(timeout=60)
    assert process.returncode == 2
    assert "is in use: pass another --master_port to the launcher" in log.splitlines()[-1]


@pytest.mark.slow
def test_killed_runs_equal_uninterrupted(one_rank, job, tmp_path):
    """SIGKILL at file operations of a save: each time an earlier checkpoint is whole, and the end is the same."""
    settings = COMMON | {"train__save_every": 1}
    whole, killed = job("whole", **settings), job("killed", **settings)
    assert one_rank.train(whole) == [None]
    script = Path(__file__).with_name("dying_train.py")
    for operation in (1, 6, 9):
        before = [p.name for p in saved(killed)] if (tmp_path / "killed/checkpoints").exists() else []
        process = start(tmp_path, killed, "--resume", "auto", script=script, DIE_AT=str(operation))
        process.communicate(timeout=120)
        assert process.returncode == -signal.SIGKILL
        for name in before[-1:]:
            CheckpointReader(tmp_path / "killed/checkpoints" / name)
    assert one_rank.train(killed, resume="auto") == [None]
    rows = [[r["loss/total"] for r in metrics(tree) if "loss/total" in r] for tree in (whole, killed)]
    assert rows[0] == pytest.approx(rows[1], abs=1e-7)
    final = [weights(saved(tree)[-1]) for tree in (whole, killed)]
    for name, tensor in final[0].items():
        torch.testing.assert_close(final[1][name], tensor, atol=1e-7, rtol=0)
    assert hidden_files(killed) == []


# What a run tells


def test_run_directory_lists_history(finished):
    run_dir = Path(finished["train"]["run_dir"])
    [attempt] = [json.loads(line) for line in (run_dir / "attempts.jsonl").read_text().splitlines()]
    assert attempt["world_size"] == 2
    assert attempt["packages"]["deepspeed"]
    assert attempt["attention"] == "cpu"
    assert attempt["config"]["train"]["batch_size"] == 2
    assert yaml.safe_load((run_dir / "config.yaml").read_text()) == attempt["config"]
    row = next(r for r in metrics(finished) if "loss/total" in r)
    names = {"loss/flow", "loss/correspondence", "grad_norm/self_attn", "grad_norm/ffn", "lr_factor",
             "time/data_wait_share", "speed/tokens_per_s", "speed/tflops_per_device", "memory/peak_gib"}  # fmt: skip
    assert names <= row.keys()
    assert list((run_dir / "samples").glob("*.mp4"))
    record = json.loads((run_dir / "model/training.json").read_text())
    assert record["step"] == 6
    text = table(run_dir.parent)
    assert "finished" in text
    assert "6/6" in text


def test_checkpoint_exports_model(finished, tmp_path, capsys):
    from mvtrack.cli.main import main as cli
    from mvtrack.models.reshoot_model import load_model

    newest = saved(finished)[-1]
    assert cli(["export", str(newest), str(tmp_path / "live"), "--live"]) == 0
    live = load_model(tmp_path / "live").dit.state_dict()
    for name, tensor in weights(newest).items():
        torch.testing.assert_close(live[name], tensor)
    averaged = load_model(Path(finished["train"]["run_dir"]) / "model").dit.state_dict()
    assert any(not torch.equal(averaged[name], live[name]) for name in live)
    assert cli(["export", str(newest), str(tmp_path / "official"), "--layout", "official"]) == 0
    assert cli(["convert", str(tmp_path / "official"), str(tmp_path / "again")]) == 0
    again = load_model(tmp_path / "again").dit.state_dict()
    assert all(torch.equal(value, averaged[name]) for name, value in again.items())
    capsys.readouterr()
    assert cli(["export", str(tmp_path), str(tmp_path / "x")]) == 2
    assert "is not a checkpoint: it has no state.json" in capsys.readouterr().err


def test_gradient_norms_equal_across_stages(one_rank, two_ranks, job):
    trees = [job(name, **(COMMON | {"train__steps": 1})) for name in ("plain", "0", "1", "2", "3")]
    assert one_rank.train(trees[0]) == [None]
    for stage, tree in enumerate(trees[1:]):
        tree["train"]["zero_stage"] = stage
        assert two_ranks.train(tree) == [None, None]
    plain, *others = [{k: v for k, v in metrics(tree)[0].items() if k.startswith("grad_norm/")} for tree in trees]
    for stage, norms in enumerate(others):
        assert norms.keys() == plain.keys()
        for name, value in plain.items():
            assert norms[name] == pytest.approx(value, rel=1e-3), (stage, name)


def test_flop_counts_by_hand():
    from mvtrack.config.model import DiTConfig
    from mvtrack.models.activation_checkpointing import Checkpointing
    from mvtrack.models.flops import forward_flops, training_flops

    config = DiTConfig()
    assert forward_flops(config, 65_520, 512, camera=False) == pytest.approx(961e12, rel=0.01)  # Wan 1.3B, two views
    assert training_flops(config, 100) == 3 * forward_flops(config, 100)
    assert training_flops(config, 100, checkpointing=Checkpointing()) == 4 * forward_flops(config, 100)
    half = training_flops(config, 100, checkpointing=Checkpointing(blocks=config.num_layers // 2))
    assert half == 3.5 * forward_flops(config, 100)
    attention = config.num_layers * 4 * 100 * 100 * config.dim
    kept = training_flops(config, 100, checkpointing=Checkpointing(keep="attention"))
    assert kept == 4 * forward_flops(config, 100) - attention


@pytest.mark.slow
def test_hanging_rank_is_named(job, tmp_path):
    """Rank 1 falls asleep in step 2: rank 0 gives up after train.timeout_s and says who was last seen where."""
    tree = job(train__timeout_s=10, **COMMON)
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(tree))
    script = Path(__file__).with_name("sleeping_train.py")
    command = [Path(sys.executable).with_name("deepspeed"), "--num_gpus", "2", "--master_port", "29641", script,
               "--config", tmp_path / "run.yaml"]  # fmt: skip
    began = time.monotonic()
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, cwd=tmp_path, timeout=200)
    assert done.returncode != 0
    assert time.monotonic() - began < 120
    text = done.stdout + done.stderr
    assert "a rank stopped answering (train.timeout_s = 10)" in text
    assert "rank 1 was at step 2" in text


@pytest.mark.slow
def test_launcher_works_without_gpus(job, tmp_path):
    """`deepspeed mvtrack/train.py` as typed on a machine without GPUs, and `mvtrack train --ranks 2`."""
    plain, wrapped = job("plain", **COMMON), job("wrapped", **COMMON)
    tools = Path(sys.executable)
    for tree, command in (
        (plain, [tools.with_name("deepspeed"), "--master_port", "29642", ROOT / "mvtrack/train.py"]),
        (wrapped, [tools.with_name("mvtrack"), "train", "--ranks", "2"]),
    ):
        path = tmp_path / "run.yaml"
        path.write_text(yaml.safe_dump(tree))
        command = [*command, "--config", path]
        done = subprocess.run(list(map(str, command)), capture_output=True, text=True, cwd=tmp_path, timeout=300)
        assert done.returncode == 0, done.stdout[-1500:] + done.stderr[-1500:]
        assert saved(tree)[-1].name == "step_0000006"
