"""The tracking head trained jointly with the transformer: losses, gradients, checkpoints, ranks."""

import json
from copy import deepcopy
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from mvtrack.cli.main import main as cli
from mvtrack.config.losses import LossConfig
from mvtrack.config.run import RunConfig
from mvtrack.config.tree import from_tree
from mvtrack.data.loader import BatchDataset
from mvtrack.models.conditioning import Conditioning
from mvtrack.models.reshoot_model import build_model, load_model, save_model
from mvtrack.training.objective import Objective
from tracking_head import load_head

HEAD = {
    "dim": 16, "heads": 2, "layers": 1, "virtual_tracks": 3, "iterations": 2, "correlation_dim": 6,
    "correlation_hidden": 10, "correlation": {"levels": 2, "radius": 1, "base_stride_px": 2},
}  # fmt: skip
COMMON = {"train__steps": 4, "train__batch_size": 2, "train__log_every": 1, "train__save_every": 2,
          "train__validate_every": 100, "loss__tracking": 0.1, "loss__tracking_points": 5}  # fmt: skip


@pytest.fixture(scope="module")
def tree(small_run) -> dict:
    tree = deepcopy(small_run)
    tree["model"]["tracking"] = HEAD
    tree["loss"] |= {"tracking": 0.1, "tracking_points": 5}
    return tree


def test_features_learn_from_tracks(tree):
    """Gradients of the tracking loss reach the head and the blocks up to the tap, and nothing behind it."""
    config = from_tree(RunConfig, tree, "tree")
    config = replace(config, model=replace(config.model, tap_layer=0), loss=replace(config.loss, correspondence=0.0))
    model = build_model(config.model, seed=1)
    batch = BatchDataset(config.data, 0, 2, 2)[0][0]
    model.codec.fit([batch.video[0]], 0.5)
    parts = Objective(config)(model.dit, Objective(config).prepare(batch, model.codec))
    assert set(parts) == {
        "flow", "tracking", "tracking_position", "tracking_visibility", "tracking_confidence", "total",
    }  # fmt: skip
    assert parts["total"].item() == pytest.approx((parts["flow"] + 0.1 * parts["tracking"]).item(), rel=1e-6)
    parts["tracking"].backward()
    reached = {name for name, p in model.dit.named_parameters() if p.grad is not None and p.grad.abs().sum() > 0}
    assert any(name.startswith("tracking_head.transformer") for name in reached)
    assert "blocks.0.self_attn.q.weight" in reached
    assert not any(name.startswith(("blocks.1.", "head.")) for name in reached)


@pytest.mark.parametrize("camera", ["mean", "reference"])
def test_head_with_cameras_learns_from_them(tree, camera):
    """The cameras of the latent frames reach it, and its embedding of them gets a gradient."""
    changed = deepcopy(tree)
    changed["model"]["tracking"] = HEAD | {"camera": camera}
    config = from_tree(RunConfig, changed, "tree")
    model = build_model(config.model, seed=1)
    batch = BatchDataset(config.data, 0, 2, 2)[0][0]
    model.codec.fit([batch.video[0]], 0.5)
    step = Objective(config).prepare(batch, model.codec).to(torch.device("cpu"))
    assert torch.equal(step.targets["tracking"].cameras.c2w, batch.camera.c2w[:, :, ::4])
    Objective(config)(model.dit, step)["tracking"].backward()
    assert model.dit.tracking_head.camera_embed.weight.grad.abs().sum() > 0


def test_split_batch_equals_whole(tree):
    config = from_tree(RunConfig, tree, "tree")
    model = build_model(config.model, seed=1)
    dataset = BatchDataset(config.data, 0, 4, 4)
    model.codec.fit([dataset[0][0].video[0]], 0.5)
    [together] = dataset[3]
    split = BatchDataset(config.data, 0, 4, 1)[3]
    whole = Objective(config)(model.dit, Objective(config).prepare(together, model.codec))
    alone = [Objective(config)(model.dit, Objective(config).prepare(batch, model.codec)) for batch in split]
    for name in whole:
        mean = torch.stack([part[name] for part in alone]).mean()
        torch.testing.assert_close(whole[name], mean, atol=1e-5, rtol=1e-5)


def test_unasked_head_costs_nothing(tree):
    config = from_tree(RunConfig, tree, "tree").model
    with_head = build_model(config, seed=2)
    without = build_model(replace(config, tracking=None), seed=2)
    own = dict(without.dit.named_parameters())
    for name, parameter in with_head.dit.named_parameters():
        assert name.startswith("tracking_head.") or torch.equal(parameter, own[name])
    g = torch.Generator().manual_seed(0)
    latents = torch.randn(1, 2, 2, 12, 6, 8, generator=g)
    inputs = (latents, torch.tensor([300.0]), Conditioning(torch.randn(1, 2, 2, 120, 6, 8, generator=g)))
    assert torch.equal(with_head.dit(*inputs).prediction, without.dit(*inputs).prediction)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"loss": {"tracking": 0.0}}, "set both"),
        ({"model": {"tracking": None}}, "set both"),
        ({"loss": {"tracking": -1.0}}, "must be at least 0"),
        ({"model": {"tracking": {"dimm": 3}}}, "did you mean 'dim'"),
    ],
)
def test_conflicting_settings_raise(tree, change, message):
    changed = deepcopy(tree)
    for section, values in change.items():
        changed[section] |= values
    with pytest.raises(ValueError, match=message):
        from_tree(RunConfig, changed, "tree")
    assert LossConfig().tracking == 0


@pytest.mark.slow
def test_ranks_and_stages_agree_and_resume(one_rank, two_ranks, tree, tmp_path):
    """Two ranks at stage 3 train the head as one rank does; the model file carries it; a resumed run is the same."""

    def settings(name: str, **changes) -> dict:
        made = deepcopy(tree)
        for key, value in (COMMON | changes | {"train__run_dir": str(tmp_path / name)}).items():
            section, _, field = key.partition("__")
            made[section][field] = value
        return made

    def logged(run: dict) -> list[float]:
        lines = (Path(run["train"]["run_dir"]) / "metrics.jsonl").read_text().splitlines()
        return [row["loss/tracking"] for row in map(json.loads, lines) if "loss/tracking" in row]

    one, two = settings("one"), settings("two", train__zero_stage=3)
    assert one_rank.train(one) == [None]
    assert two_ranks.train(two) == [None, None]
    assert logged(two) == pytest.approx(logged(one), abs=1e-5)
    stopped = settings("stopped", train__stop_after=2)
    assert one_rank.train(stopped) == [None]
    assert one_rank.train(settings("stopped"), resume="auto") == [None]
    assert logged(stopped) == pytest.approx(logged(one), abs=1e-7)
    model = load_model(tmp_path / "one/model")
    assert model.dit.tracking_head is not None
    with safe_open(tmp_path / "one/model/model.safetensors", "pt") as file:
        assert any(name.startswith("dit.tracking_head.") for name in file.keys())  # noqa: SIM118


def test_head_joins_trained_model(one_rank, tree, small_model, tmp_path):
    save_model(small_model, tmp_path / "start")
    joined = deepcopy(tree)
    for key, value in (COMMON | {"train__steps": 1, "train__run_dir": str(tmp_path / "run"),
                                 "train__init_from": str(tmp_path / "start")}).items():  # fmt: skip
        section, _, field = key.partition("__")
        joined[section][field] = value
    joined["optim"] = joined["optim"] | {"trainable": ["tracking_head.*"]}
    assert one_rank.train(joined) == [None]
    made, before = load_model(tmp_path / "run/model"), dict(small_model.dit.named_parameters())
    kept = [name for name, _ in made.dit.named_parameters() if not name.startswith("tracking_head.")]
    assert all(torch.equal(made.dit.get_parameter(name), before[name]) for name in kept)
    of_run, of_model = tmp_path / "of_run", tmp_path / "of_model.safetensors"
    assert cli(["export", str(tmp_path / "run"), str(of_run), "--part", "tracking_head"]) == 0
    assert cli(["export", str(tmp_path / "run/model"), str(of_model), "--part", "tracking_head"]) == 0
    for path in (of_run, of_model):
        alone = load_head(path)
        assert alone.config == made.config.tracking
        for name, value in made.dit.tracking_head.state_dict().items():
            assert torch.equal(alone.state_dict()[name], value)


def test_model_without_head_exports_none(small_model, tmp_path, capsys):
    save_model(small_model, tmp_path / "m")
    assert cli(["export", str(tmp_path / "m"), str(tmp_path / "h"), "--part", "tracking_head"]) == 2
    assert "has no tracking head (model.tracking is null in its config)" in capsys.readouterr().err
    assert cli(["export", str(tmp_path), str(tmp_path / "h"), "--part", "tracking_head"]) == 2
    assert "no model at" in capsys.readouterr().err
    assert not (tmp_path / "h").exists()
