"""The static case in a run: which views are given, what is supervised, cameras left out, the logit head's weights."""

import json
from copy import deepcopy
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from mvtrack.cli.main import main as cli
from mvtrack.config.run import RunConfig
from mvtrack.config.tree import from_tree
from mvtrack.data.loader import BatchDataset
from mvtrack.models.reshoot_model import build_model, load_model
from mvtrack.training.objective import Objective

COUNT = 3
CAMEO_LOSS = {
    "correspondence": 0.1, "correspondence_targets": "points", "correspondence_queries": None,
    "correspondence_options": {"heads": "mlp", "exclude": "own_view", "reduction": "ref_plus_tgt"},
}  # fmt: skip


def still_tree(small_run: dict, root: Path, encoding: str) -> dict:
    """`small_run` on still scenes: three views, one or two of them given."""
    tree, frames = deepcopy(small_run), 1 if encoding == "images" else 9
    tree["model"]["dit"]["rope_frames"] = "by_view"
    tree["model"]["rays"]["drop"] = 0.3
    tree["model"] |= {"views": {"count": COUNT, "references": [1, 2], "encoding": encoding},
                      "num_frames": frames, "logit_heads": [1]}  # fmt: skip
    tree["data"] |= {"num_frames": frames, "banks": [
        {"root": str(root / encoding), "size": [24, 32], "num_scenes": 4, "num_frames": frames, "num_views": 4,
         "num_points": 5, "static": True}]}  # fmt: skip
    exclude = "own_view" if encoding == "images" else "own_frame"
    tree["loss"] = deepcopy(CAMEO_LOSS)
    tree["loss"]["correspondence_options"]["exclude"] = exclude
    return tree


@pytest.fixture(scope="module", params=["images", "path"])
def still(request, small_run, tmp_path_factory):
    """Config tree, a model with a fitted codec, and one batch of either encoding."""
    tree = still_tree(small_run, tmp_path_factory.mktemp("bank"), request.param)
    config = from_tree(RunConfig, tree, "tree")
    model = build_model(config.model, seed=1)
    batch = dataset(config, 4, 4)[0][0]
    model.codec.fit(list(batch.video), 0.5)
    return tree, config, model, batch


def dataset(config: RunConfig, batch: int, micro: int) -> BatchDataset:
    return BatchDataset(config.data, 0, batch, micro, views=config.model.views)


def test_sample_holds_views_of_one_still_scene(still):
    _, config, model, batch = still
    images = config.model.views.encoding == "images"
    assert batch.video.shape[1:3] == ((COUNT, 1) if images else (1, 9))
    step = Objective(config).prepare(batch, model.codec)
    assert step.latents.shape[1:3] == step.conditioning.reference.shape[1:] == ((COUNT, 1) if images else (1, COUNT))
    assert step.num_tokens(1) == COUNT * 6 * 8
    centres = batch.camera.c2w[..., :3].flatten(1, 2)
    apart = (centres[:, :1] - centres[:, 1:]).flatten(2).norm(dim=-1)
    assert (apart > 1e-3).any(1).all()


def test_number_of_references_is_drawn_per_sample(still):
    _, config, _, _ = still
    shape = (COUNT, 1) if config.model.views.encoding == "images" else (1, COUNT)
    given = Objective(config).draw_references(torch.arange(400), shape).flatten(1)
    assert given[:, 0].all()
    assert (given.int().diff(dim=1) <= 0).all()  # the given ones come first
    shares = [(given.sum(1) == n).float().mean().item() for n in (1, 2)]
    assert sum(shares) == pytest.approx(1)
    assert 0.4 < shares[0] < 0.6
    assert torch.equal(Objective(config).draw_references(torch.arange(7, 9), shape).flatten(1), given[7:9])


def test_cameras_drop_out_of_their_share(still):
    _, config, model, batch = still
    kept = Objective(config).keeps_camera(torch.arange(400))
    assert 0.23 < 1 - kept.float().mean() < 0.37
    step = Objective(config).prepare(batch, model.codec)
    own = Objective(config).keeps_camera(batch.index)
    assert torch.equal(step.conditioning.rays.flatten(1).any(1), own)
    assert 0 < own.sum() < len(own)
    without = Objective(replace(config, model=without_drop(config))).prepare(batch, model.codec)
    assert torch.equal(without.conditioning.rays[own], step.conditioning.rays[own])
    assert torch.equal(without.noise, step.noise)


def without_drop(config: RunConfig):
    return replace(config.model, rays=replace(config.model.rays, drop=0.0))


def test_references_stay_clean_and_unsupervised(still):
    _, config, model, batch = still
    step = Objective(config).prepare(batch, model.codec)

    def perfect(noisy, timestep, conditioning, tap_layers):
        reference = conditioning.reference
        assert torch.equal(reference, step.conditioning.reference)
        torch.testing.assert_close(noisy[reference], step.latents[reference])
        assert not torch.isclose(noisy[~reference], step.latents[~reference]).all(-1).any()
        out = model.dit(noisy, timestep, conditioning, tap_layers)
        wrong = step.latents + 100 * reference[..., None, None, None]
        return out._replace(prediction=wrong)

    perfect.logit_heads = model.dit.logit_heads
    assert Objective(config)(perfect, step)["flow"].item() < 1e-10


def test_split_batch_equals_whole(still):
    _, config, model, _ = still
    [together] = dataset(config, 4, 4)[3]
    split = dataset(config, 4, 1)[3]
    whole = Objective(config)(model.dit, Objective(config).prepare(together, model.codec))
    alone = [Objective(config)(model.dit, Objective(config).prepare(batch, model.codec)) for batch in split]
    for name in whole:
        mean = torch.stack([part[name] for part in alone]).mean()
        torch.testing.assert_close(whole[name], mean, atol=1e-5, rtol=1e-5)


def test_logit_head_and_blocks_before_tap_learn(still):
    _, config, model, batch = still
    parts = Objective(config)(model.dit, Objective(config).prepare(batch, model.codec))
    model.dit.zero_grad()
    parts["correspondence"].backward()
    reached = {name for name, p in model.dit.named_parameters() if p.grad is not None and p.grad.abs().sum() > 0}
    assert {"logit_heads.1.mlp.0.weight", "logit_heads.1.mlp.2.weight", "blocks.1.self_attn.q.weight"} <= reached
    assert not any(name.startswith("head.") for name in reached)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model": {"logit_heads": []}}, r"set model.logit_heads: \[1\], got \[\]"),
        ({"model": {"logit_heads": [0, 1]}}, r"set model.logit_heads: \[1\], got \[0, 1\]"),
        ({"model": {"logit_heads": [2]}}, r"logit_heads \[2\] must lie in \[0, 1\]"),
        ({"model": {"num_frames": 5}}, "with 3 views needs num_frames: 1, got 5"),
        ({"model": {"views": {"count": 3, "references": [3]}}}, r"must lie in \[1, 2\]"),
        ({"model": {"views": {"count": 5, "references": [1]}}}, "num_views 4 is less than model.views.count 5"),
        ({"model": {"tracking": {}}}, "nothing moves: set tracking: null"),
        ({"loss": {"correspondence_targets": "depth"}}, "set points"),
        ({"data": {"num_frames": 5}}, "exceeds the 1 frames of bank"),
    ],
)
def test_conflicting_settings_name_fix(small_run, tmp_path, change, message):
    tree = still_tree(small_run, tmp_path, "images")
    for section, values in change.items():
        tree[section] |= values
    with pytest.raises(ValueError, match=message):
        from_tree(RunConfig, tree, "tree")


def test_moving_scenes_and_single_paths_raise(small_run, tmp_path):
    tree = still_tree(small_run, tmp_path, "images")
    tree["data"]["banks"][0]["static"] = False
    with pytest.raises(ValueError, match="set static: true in bank"):
        from_tree(RunConfig, tree, "tree")
    tree = still_tree(small_run, tmp_path, "path")
    tree["loss"]["correspondence_options"]["exclude"] = "own_view"
    with pytest.raises(ValueError, match="leaves nothing of a single path: set own_frame"):
        from_tree(RunConfig, tree, "tree")
    tree = still_tree(small_run, tmp_path, "path")
    tree["model"]["dit"]["rope_frames"] = "concat"
    with pytest.raises(ValueError, match="with views set it to by_view"):
        from_tree(RunConfig, tree, "tree")


@pytest.mark.slow
def test_ranks_and_stages_agree_and_resume(one_rank, two_ranks, small_run, tmp_path):
    """Two ranks at stage 3 train the logit head as one rank does; the model file carries it; a resumed run is equal."""
    tree = still_tree(small_run, tmp_path, "images")
    tree["train"] |= {"steps": 4, "batch_size": 2, "log_every": 1, "save_every": 2, "validate_every": 4}

    def settings(name: str, **train) -> dict:
        made = deepcopy(tree)
        made["train"] |= train | {"run_dir": str(tmp_path / name)}
        return made

    def logged(run: dict, name: str = "loss/correspondence") -> list[float]:
        lines = (Path(run["train"]["run_dir"]) / "metrics.jsonl").read_text().splitlines()
        return [row[name] for row in map(json.loads, lines) if name in row]

    one, two = settings("one"), settings("two", zero_stage=3)
    assert one_rank.train(one) == [None]
    assert two_ranks.train(two) == [None, None]
    assert len(logged(one)) == 4
    assert logged(two) == pytest.approx(logged(one), abs=1e-5)
    assert logged(two, "validation/alignment_error") == pytest.approx(logged(one, "validation/alignment_error"), 1e-3)
    parts = settings("parts", stop_after=2, zero_stage=3)
    assert two_ranks.train(parts) == [None, None]
    assert one_rank.train(settings("parts"), resume="auto") == [None]
    assert logged(parts) == pytest.approx(logged(one), abs=1e-5)
    names = ("logit_heads.1.mlp.0.weight", "logit_heads.1.mlp.2.weight", "blocks.0.self_attn.q.weight")
    models = [load_model(tmp_path / name / "model").dit for name in ("one", "two", "parts")]
    start = build_model(from_tree(RunConfig, tree, "tree").model).dit
    for name in names:
        assert not torch.allclose(models[0].get_parameter(name), start.get_parameter(name))
        for other in models[1:]:
            torch.testing.assert_close(other.get_parameter(name), models[0].get_parameter(name), atol=2e-5, rtol=0)
    with safe_open(tmp_path / "one/model/model.safetensors", "pt") as file:
        assert sum(name.startswith("dit.logit_heads.1.") for name in file.keys()) == 4  # noqa: SIM118
    assert list((tmp_path / "one" / "samples").glob("step_0000004_validation_views.png"))
    checkpoint = tmp_path / "one" / "checkpoints" / "step_0000004"
    assert cli(["export", str(checkpoint), str(tmp_path / "small"), "--without-logit-heads"]) == 0
    small = load_model(tmp_path / "small")
    assert small.config == replace(load_model(tmp_path / "one/model").config, logit_heads=())
    assert not any("logit_heads" in name for name in small.dit.state_dict())
