"""CAT3D's U-Net and Hunyuan-DiT in the one trainer: v on target views, cameras left out, labels, resuming, start."""

import json
from copy import deepcopy
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from mvtrack.config.backbones import DOMAINS, HunyuanConfig, UNetConfig
from mvtrack.config.run import RunConfig
from mvtrack.config.tree import from_tree
from mvtrack.data.loader import BatchDataset
from mvtrack.inference.guidance import guided
from mvtrack.inference.sampler import SamplerOptions
from mvtrack.inference.views.generate import generate_views
from mvtrack.models.conditioning import view_conditioning
from mvtrack.models.diffusion.discrete import ddim_steps
from mvtrack.models.diffusion.flow import keep_references
from mvtrack.models.reshoot_model import build_model, load_model, save_model
from mvtrack.training.objective import Objective
from mvtrack.training.optimizer import build_optimizer

COUNT, SIZE = 3, [64, 96]
BACKBONES = {
    "cat3d": {"block_channels": [8, 16, 16], "num_heads": [1, 2, 2], "layers_per_block": 1, "norm_groups": 4,
              "channels": 12},
    "hunyuan": {"num_layers": 4, "num_heads": 2, "head_dim": 8, "channels": 12, "text_dims": [5, 8],
                "text_lengths": [2, 3], "pooled_dim": 6, "rope_base": 4},
}  # fmt: skip


def view_tree(small_run: dict, root: Path, kind: str, **rays) -> dict:
    """`small_run` with another backbone, on still scenes; its layer 3 has tokens of 16 pixels."""
    tree = deepcopy(small_run)
    tree["model"] = {
        "dit": None, kind: deepcopy(BACKBONES[kind]) | {"rays": {"drop": 0.3} | rays},
        "codec": {"channels": 12, "stride": 8}, "diffusion": {"steps": 4}, "tap_layer": 3, "logit_heads": [3],
        "views": {"count": COUNT, "references": [1, 2]}, "sizes": [SIZE], "num_frames": 1,
    }  # fmt: skip
    tree["data"] |= {"num_frames": 1, "banks": [
        {"root": str(root / "still"), "size": SIZE, "num_scenes": 4, "num_frames": 1, "num_views": 4, "num_points": 5,
         "static": True}]}  # fmt: skip
    tree["loss"] = {
        "correspondence": 0.02, "correspondence_targets": "points", "correspondence_queries": None,
        "correspondence_options": {"heads": "mlp", "exclude": "own_view", "reduction": "ref_plus_tgt"},
    }  # fmt: skip
    return tree


@pytest.fixture(scope="module", params=BACKBONES)
def trained(request, small_run, tmp_path_factory):
    """Config, a model with a fitted codec and lively zero layers, and one batch."""
    tree = view_tree(small_run, tmp_path_factory.mktemp("bank"), request.param)
    config = from_tree(RunConfig, tree, "tree")
    model = build_model(config.model, seed=1)
    batch = BatchDataset(config.data, 0, 4, 4, views=config.model.views)[0][0]
    model.codec.fit(list(batch.video), 0.5)
    with torch.no_grad():
        for i, parameter in enumerate(model.dit.parameters()):
            if not parameter.any():
                parameter.normal_(std=0.1, generator=torch.Generator().manual_seed(i))
    return config, model, batch


def test_v_is_learnt_on_target_views_alone(trained):
    config, model, batch = trained
    objective = Objective(config)
    step = objective.prepare(batch, model.codec)
    step = replace(step, sigma=torch.tensor([0.999, 0.5, 0.001, 0.0]))

    def perfect(noisy, timestep, conditioning, tap_layers):
        reference = conditioning.reference
        assert timestep.tolist() == [999, 500, 1, 0]
        torch.testing.assert_close(noisy[reference], step.latents[reference])
        assert torch.equal(noisy[0][~reference[0]], step.noise[0][~reference[0]])  # zero terminal SNR: pure noise
        out = model.dit(noisy, timestep, conditioning, tap_layers)
        assert out.prediction.isfinite().all()
        v = objective.process.target(step.latents, step.noise, step.sigma)
        assert torch.equal(v[0], -step.latents[0])
        return out._replace(prediction=v + 100 * reference[..., None, None, None])

    perfect.logit_heads = model.dit.logit_heads
    parts = objective(perfect, step)
    assert parts["diffusion"].item() < 1e-10
    torch.testing.assert_close(parts["total"], parts["diffusion"] + 0.02 * parts["correspondence"])


def test_cameras_are_dropped_by_sample_or_for_a_whole_step(small_run, tmp_path):
    tree = view_tree(small_run, tmp_path, "cat3d", drop_per="batch")
    tree["train"] |= {"batch_size": 4, "micro_batch_size": 2}
    kept = Objective(from_tree(RunConfig, tree, "tree")).keeps_camera(torch.arange(2000)).view(-1, 4)
    assert torch.equal(kept.any(1), kept.all(1))
    assert 0.24 < 1 - kept.float().mean() < 0.36  # 500 draws of 0.3, three standard deviations
    tree["model"]["cat3d"]["rays"]["drop_per"] = "sample"
    kept = Objective(from_tree(RunConfig, tree, "tree")).keeps_camera(torch.arange(2000)).view(-1, 4)
    assert not torch.equal(kept.any(1), kept.all(1))


def test_dropped_cameras_leave_the_mask(trained):
    config, model, batch = trained
    rays = replace(config.model.backbone.rays, drop=0.999)
    name = "cat3d" if config.model.cat3d else "hunyuan"
    config = replace(config, model=replace(config.model, **{name: replace(config.model.backbone, rays=rays)}))
    conditioning = Objective(config).prepare(batch, model.codec).conditioning
    assert not conditioning.rays.any()
    assert conditioning.reference.any()
    assert not conditioning.reference.all()


def test_clips_bring_their_domain_to_the_network_that_has_labels(trained):
    config, model, batch = trained
    named = replace(batch, domains=("co3d", "rendered", "re10k", ""))
    label = Objective(config).prepare(named, model.codec).conditioning.domain
    if config.model.cat3d:
        assert [DOMAINS[i] for i in label] == ["co3d", "others", "re10k", "others"]
    else:
        assert label is None


def test_recomputed_blocks_give_the_same_gradients(trained):
    config, model, batch = trained
    step = Objective(config).prepare(batch, model.codec)
    gradients = []
    model.dit.train()
    for recompute in (False, True):
        model.dit.recompute(recompute)
        model.dit.zero_grad()
        Objective(config)(model.dit, step)["total"].backward()
        gradients.append({name: p.grad for name, p in model.dit.named_parameters() if p.grad is not None})
    model.dit.recompute(False)
    model.dit.eval()
    assert gradients[0].keys() == gradients[1].keys()
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradient, gradients[1][name], atol=1e-6, rtol=1e-5, msg=name)


def test_views_are_sampled_in_the_authors_order(trained):
    """Guidance by the camera, a DDIM step on all views, references overwritten."""
    config, model, _ = trained
    clip = BatchDataset(config.data, 0, 1, 1, views=config.model.views)[5][0]
    given, camera = clip.video[0, :2, 0], clip.camera[0, :, 0]
    sample = SamplerOptions.of(config.model, seed=4)
    assert (sample.steps, sample.camera_guidance) == (4, 2.0)
    made = generate_views(model, given, camera, sample)

    reference = torch.tensor([[True, True, False]])
    clean = model.encode(given[None, :, None])
    clean = torch.cat([clean, torch.zeros_like(clean[:, :1])], 1)
    noise = torch.randn(clean.shape, generator=torch.Generator().manual_seed(4))
    conditioning = view_conditioning(camera[None], reference, config.model.backbone.rays)
    with torch.no_grad():
        step = guided(lambda x, t, c: model.dit(x, t, c).prediction, conditioning, camera_guidance=2.0)
        with_references = lambda x: keep_references(clean, x, reference[..., None])  # noqa: E731
        *_, latents = ddim_steps(step, noise, config.model.diffusion, 4, with_references)
    expected = model.decode(latents)[0, 2:, 0].clamp(-1, 1)
    torch.testing.assert_close(made, expected, atol=1e-4, rtol=0)
    assert (made - generate_views(model, given, camera, replace(sample, camera_guidance=1.0))).abs().max() > 1e-2


def test_model_file_carries_backbone_and_schedule(trained, tmp_path):
    config, model, _ = trained
    save_model(model, tmp_path / "model")
    loaded = load_model(tmp_path / "model")
    assert loaded.config == config.model
    assert type(loaded.dit) is type(model.dit)
    assert all(torch.equal(x, loaded.dit.state_dict()[name]) for name, x in model.dit.state_dict().items())


@pytest.mark.slow
def test_ranks_agree_and_a_resumed_run_is_equal(one_rank, two_ranks, small_run, tmp_path):
    """Two ranks at stage 2 train as one does; a run in two parts gives the weights of a whole one to the bit."""
    tree = view_tree(small_run, tmp_path, "cat3d", drop_per="batch")
    tree["train"] |= {"steps": 4, "batch_size": 2, "log_every": 1, "save_every": 2, "validate_every": 4}

    def settings(name: str, **train) -> dict:
        made = deepcopy(tree)
        made["train"] |= train | {"run_dir": str(tmp_path / name)}
        return made

    def logged(name: str, key: str) -> list[float]:
        rows = map(json.loads, (tmp_path / name / "metrics.jsonl").read_text().splitlines())
        return [row[key] for row in rows if key in row]

    assert one_rank.train(settings("whole", zero_stage=2)) == [None]
    assert one_rank.train(settings("parts", zero_stage=2, stop_after=2)) == [None]
    assert one_rank.train(settings("parts", zero_stage=2), resume="auto") == [None]
    assert two_ranks.train(settings("two", zero_stage=2)) == [None, None]
    whole, parts, two = (load_model(tmp_path / name / "model").dit.state_dict() for name in ("whole", "parts", "two"))
    for name, value in whole.items():
        assert torch.equal(value, parts[name]), name
        torch.testing.assert_close(two[name], value, atol=2e-5, rtol=0)
    for key in ("loss/diffusion", "loss/correspondence"):
        assert logged("two", key) == pytest.approx(logged("whole", key), abs=1e-5)
    assert len(logged("whole", "validation/psnr_db")) == 1
    assert list((tmp_path / "whole/samples").glob("step_0000004_validation_views.png"))


def test_converted_networks_start_a_run(one_rank, small_run, tmp_path):
    tree = view_tree(small_run, tmp_path, "hunyuan")
    config = from_tree(RunConfig, tree, "tree")
    model = build_model(replace(config.model, logit_heads=()), seed=3)
    model.codec.fit(list(BatchDataset(config.data, 0, 1, 1, views=config.model.views)[0][0].video), 0.5)
    save_model(model, tmp_path / "converted")
    start = model.dit
    tree["optim"]["lr"] = 0.0
    tree["train"] |= {"steps": 1, "init_from": str(tmp_path / "converted"), "run_dir": str(tmp_path / "run"),
                      "validate_every": 1, "batch_size": 1}  # fmt: skip
    assert one_rank.train(tree) == [None]
    made = load_model(tmp_path / "run/model").dit.state_dict()
    assert all(torch.equal(value, made[name]) for name, value in start.state_dict().items())
    assert any(name.startswith("logit_heads.3.") for name in made)
    tree["model"]["hunyuan"]["rays"]["pixel"] = "peer"
    tree["train"]["run_dir"] = str(tmp_path / "free")  # the condition encoder says nothing yet: any rays will do
    assert one_rank.train(tree) == [None]
    model.dit.condition_encoder.proj.bias.data.fill_(0.1)
    save_model(model, tmp_path / "converted")
    tree["train"]["run_dir"] = str(tmp_path / "other")
    [error] = one_rank.train(tree)
    assert "was trained with other rays: set ViewRayConfig(frame='relative', pixel='centre'" in error


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model": {"dit": {}}}, "a model has one backbone, got dit and cat3d"),
        ({"model": {"cat3d": None}}, "a model has one backbone, got none"),
        ({"model": {"views": None}}, "cat3d makes views of still scenes: set views"),
        ({"model": {"rays": {"drop": 0.1}}}, "rays and native_camera are dit's: set cat3d.rays"),
        ({"model": {"codec": {"channels": 12, "stride": 4}}}, "codec.stride be 8, got 4"),
        ({"model": {"codec": {"channels": 16, "stride": 8}}}, "codec.channels 16 must equal cat3d.channels 12"),
        ({"model": {"sizes": [[64, 80]]}}, "is not divisible by the token size 32"),
        ({"model": {"tap_layer": 7}}, r"tap_layer 7 must lie in \[0, 6\]"),
        ({"train": {"compile": True}}, "train.compile is for model.dit, this model's network is diffusers'"),
        ({"train": {"zero_stage": 3}}, "set it to 2"),
        ({"optim": {"name": "muon"}, "train": {"zero_stage": 1}}, "muon works on whole float32 matrices"),
        ({"loss": {"correspondence_layers": [2, 3]}, "model": {"logit_heads": [2, 3]}}, r"tokens of \[16, 32\] pixels"),
    ],
)
def test_settings_of_another_backbone_name_their_fix(small_run, tmp_path, change, message):
    tree = view_tree(small_run, tmp_path, "cat3d")
    for section, values in change.items():
        tree[section] |= values
    with pytest.raises(ValueError, match=message):
        from_tree(RunConfig, tree, "tree")


def test_muon_takes_hidden_matrices_and_convolutions(trained):
    config, model, _ = trained
    optimizer = build_optimizer(model.dit, replace(config.optim, name="muon"))
    names = {parameter: name for name, parameter in model.dit.named_parameters()}
    by_muon = {names[parameter] for group in optimizer.muon.param_groups for parameter in group["params"]}
    by_adamw = {names[parameter] for group in optimizer.adamw.param_groups for parameter in group["params"]}
    assert by_muon | by_adamw == set(names.values())
    hidden = {
        "cat3d": ("unet.down_blocks.0.resnets.0.conv1.weight", "unet.mid_block.attentions.0.proj_in.weight",
                  "unet.up_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q.weight",
                  "unet.up_blocks.0.upsamplers.0.conv.weight", "unet.add_conv_in.conv2.0.weight"),
        "hunyuan": ("transformer.blocks.0.attn1.to_q.weight", "transformer.blocks.3.skip_linear.weight",
                    "condition_encoder.conv4.0.weight"),
    }  # fmt: skip
    outside = {
        "cat3d": ("unet.conv_in.weight", "unet.conv_out.weight", "unet.add_conv_in.conv1.0.weight",
                  "unet.add_conv_in.conv_out.weight", "unet.time_embedding.linear_1.weight"),
        "hunyuan": ("transformer.pos_embed.proj.weight", "transformer.proj_out.weight", "condition_encoder.proj.weight",
                    "condition_encoder.conv1.0.weight"),
    }  # fmt: skip
    kind = "cat3d" if config.model.cat3d else "hunyuan"
    assert by_muon.issuperset(hidden[kind])
    assert by_adamw.issuperset(outside[kind])


def test_layers_have_the_papers_token_sizes():
    """Layers 0 to 15 at 512 pixels, facts of the paper's table: 64x64 to 8x8 tokens and back."""
    sides = [UNetConfig().token_side(layer) for layer in range(UNetConfig().num_layers)]
    assert sides == [1, 1, 2, 2, 4, 4, 8, 4, 4, 4, 2, 2, 2, 1, 1, 1]
    assert HunyuanConfig().token_side(32) == 2
