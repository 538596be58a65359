"""Released files to models: the same numbers as the peers', whatever the layout, and nothing unexplained."""

import json
from dataclasses import replace

import pytest
import torch
from safetensors.torch import save_file

from mvtrack.config.encoders import CodecConfig
from mvtrack.config.model import DiTConfig, ModelConfig, RayConfig
from mvtrack.models.conditioning import Conditioning
from mvtrack.models.weights.convert import load_pretrained, open_released, recognise
from mvtrack.models.weights.naming import DIT_DIFFUSERS

RAYS = RayConfig(token_px=16, stride=4, proj_init="zero")


def config_of(dit: DiTConfig) -> ModelConfig:
    codec = CodecConfig(kind="wan_vae", channels=16, stride=8, weights="nowhere")
    return ModelConfig(dit=dit, rays=RAYS, codec=codec, tap_layer=0)


@pytest.fixture
def wan(wan_numbers):
    """The golden transformer: its numbers, its weights, its config."""
    return wan_numbers.tensors, wan_numbers.weights, config_of(DiTConfig(**wan_numbers.sizes))


def write_official(weights, folder):
    save_file(weights, folder / "diffusion_pytorch_model.safetensors")
    return folder


def write_pickle(weights, folder):
    torch.save({"state_dict": weights}, folder / "step20000.ckpt")
    return folder / "step20000.ckpt"


def write_prefixed(weights, folder):
    save_file({f"model.diffusion_model.{k}": v for k, v in weights.items()}, folder / "comfy.safetensors")
    return folder / "comfy.safetensors"


def write_diffusers_shards(weights, folder):
    weights = {DIT_DIFFUSERS.from_official(name): value for name, value in weights.items()}
    (folder / "transformer").mkdir()
    names, files = sorted(weights), {}
    for n, part in enumerate((names[::2], names[1::2]), 1):
        files |= dict.fromkeys(part, f"diffusion_pytorch_model-0000{n}-of-00002.safetensors")
        save_file({k: weights[k].contiguous() for k in part}, folder / "transformer" / files[part[0]])
    index = folder / "transformer/diffusion_pytorch_model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": files}))
    return folder


@pytest.mark.parametrize("write", [write_official, write_pickle, write_prefixed, write_diffusers_shards])
def test_golden_forward_from_every_layout(wan, tmp_path, write):
    """Our own rays start at zero effect, so the loaded model gives the peer's velocity."""
    numbers, weights, config = wan
    loaded = load_pretrained(config, open_released([write(weights, tmp_path)]))
    assert set(loaded.match.read) == set(weights)
    assert all(name.startswith("ray_encoder.") or ".camera_proj." in name for name in loaded.match.new)
    latents = numbers["in.latents"].transpose(1, 2)[:, None]
    rays = torch.randn(2, 1, latents.shape[2], RAYS.channels, 16, 24)
    with torch.no_grad():
        out = loaded.model.dit(
            latents, numbers["in.timestep"], Conditioning(rays, text=numbers["in.context"], num_reference=0)
        )
    velocity = numbers["out.velocity"]
    torch.testing.assert_close(out.prediction[:, 0].transpose(1, 2), velocity, atol=1e-5, rtol=0)


def test_golden_delta_overrides_base(wan, tmp_path):
    _, weights, config = wan
    delta = {name: torch.randn_like(value) for name, value in weights.items() if ".self_attn." in name}
    base = write_official(weights, tmp_path)
    save_file(delta, tmp_path / "delta.safetensors")
    dit = load_pretrained(config, open_released([base, tmp_path / "delta.safetensors"])).model.dit.state_dict()
    assert all(torch.equal(dit[name], delta.get(name, weights[name])) for name in weights)
    with pytest.raises(ValueError, match="delta.safetensors holds self-attention only: give the base"):
        open_released([tmp_path / "delta.safetensors"])
    with pytest.raises(ValueError, match="is a whole transformer: only the first source"):
        open_released([base, base])
    with pytest.raises(ValueError, match="no weights given"):
        open_released([])


def test_golden_precision_follows_file(wan, tmp_path):
    _, weights, config = wan
    mixed = {k: v.bfloat16() if ".ffn." in k else v for k, v in weights.items()}
    checkpoint = open_released([write_pickle(mixed, tmp_path)])
    assert {p.dtype for p in load_pretrained(config, checkpoint).model.dit.parameters()} == {torch.float32}
    half = load_pretrained(config, checkpoint, dtype=torch.bfloat16).model.dit
    assert {p.dtype for p in half.parameters()} == {torch.bfloat16}


def test_golden_branches_change_only_by_name(wan, tmp_path):
    _, weights, config = wan
    recammaster = replace(config, dit=replace(config.dit, pose_encoder=True, projector=True))
    checkpoint = open_released([write_official(weights, tmp_path)])
    with pytest.raises(ValueError, match=r"blocks.0.cam_encoder.weight is missing.*12 differences"):
        load_pretrained(recammaster, checkpoint)
    fresh = ("blocks.*.cam_encoder.*", "blocks.*.projector.*")
    model = load_pretrained(recammaster, checkpoint, fresh=fresh).model
    assert model.dit.blocks[2].cam_encoder.weight.count_nonzero() == 0
    assert torch.equal(model.dit.blocks[2].projector.weight, torch.eye(config.dit.dim))
    trained = open_released([write_pickle(dict(model.dit.state_dict()), tmp_path)])
    trained = trained.without([name for name in trained.tensors if "ray" in name or "camera_proj" in name])
    with pytest.raises(ValueError, match=r"no place in the model.*drop them on purpose \(drop 'blocks.\*.cam_enc"):
        load_pretrained(config, trained)
    assert load_pretrained(config, trained, drop=fresh).match.dropped[0] == "blocks.0.cam_encoder.weight"


def test_golden_truncated_file_raises(wan, tmp_path):
    _, weights, config = wan
    short = {name: value for name, value in weights.items() if not name.startswith("blocks.2.ffn")}
    with pytest.raises(ValueError, match=r"does not fit the model: blocks.2.ffn.0.weight is missing.*4 differences"):
        load_pretrained(config, open_released([write_official(short, tmp_path)]))


RELEASED = {
    "wan2.1_t2v_1.3b": ["wan2.1_t2v_1.3b"],
    "recammaster_1.3b": ["recammaster_1.3b"],
    "redirector_1.3b": ["redirector_base_fun_control_camera_1.3b", "redirector_delta"],
}


@pytest.mark.parametrize("name", RELEASED)
def test_golden_released_files_are_recognised(released, name):
    base, *deltas = (released(file) for file in RELEASED[name])
    checkpoint = base if not deltas else base.overlaid(deltas[0])
    assert recognise(checkpoint) == name
    short = checkpoint.without(["blocks.7.ffn.0.weight"])
    with pytest.raises(ValueError, match=f"none of the released models .*; {name} is nearest, with 1 differences"):
        recognise(short)
