"""There and back: a model in another project's layout, and what that project computes with it."""

import json
from dataclasses import replace

import pytest
import torch
from safetensors import safe_open

from mvtrack.cli.convert import main as convert
from mvtrack.cli.export import main as export
from mvtrack.config.encoders import CodecConfig, TextConfig
from mvtrack.config.model import DiTConfig, ModelConfig, RayConfig
from mvtrack.config.placement import EncoderSources
from mvtrack.config.presets import preset
from mvtrack.models.conditioning import Conditioning
from mvtrack.models.encoder_sources import with_sources
from mvtrack.models.reshoot_model import build_model, load_model, read_config, save_model
from mvtrack.models.weights.export_formats import diffusers_config, write_diffusers, write_official

B, F, H, W, L = 2, 3, 4, 6, 512  # diffusers takes what stands before 512 text tokens as image tokens
WAN = ModelConfig(
    dit=DiTConfig(
        dim=24, ffn_dim=28, num_heads=2, num_layers=2, in_channels=16, out_channels=16, text_dim=7, freq_dim=10
    ),
    rays=RayConfig(token_px=16, stride=8),
    codec=CodecConfig(kind="wan_vae", channels=16, stride=8, weights="Wan-AI/Wan2.1-T2V-1.3B"),
    tap_layer=1,
    sizes=((32, 48),),
    num_frames=9,
)
WITH_TEXT = replace(WAN, text=TextConfig())
WITH_IMAGE = replace(WAN, dit=replace(WAN.dit, image_dim=11))


def lively(config: ModelConfig):
    """A model of which no parameter hides behind a zero."""
    model = build_model(config, seed=3)
    g = torch.Generator().manual_seed(4)
    for parameter in model.dit.parameters():
        parameter.data.normal_(std=0.3, generator=g)
    return model


@pytest.fixture(params=["wan", "image", "tiny"])
def model(request, small_model):
    return small_model if request.param == "tiny" else lively(WAN if request.param == "wan" else WITH_IMAGE)


def assert_same(model, other) -> None:
    assert other.config == model.config
    for ours, theirs in ((model.dit, other.dit), (model.codec, other.codec)):
        state = ours.state_dict()
        assert state.keys() == theirs.state_dict().keys()
        assert all(torch.equal(value, state[name]) for name, value in theirs.state_dict().items())


@pytest.mark.parametrize("layout", ["official", "diffusers"])
def test_export_and_convert_round_trip(model, tmp_path, layout, capsys):
    save_model(model, tmp_path / "own")
    if layout == "diffusers" and not model.config.dit.text_dim:
        assert export([str(tmp_path / "own"), str(tmp_path / "foreign"), "--layout", layout]) == 2
        assert "needs a text branch" in capsys.readouterr().err
        assert not (tmp_path / "foreign").exists()
        return
    assert export([str(tmp_path / "own"), str(tmp_path / "foreign"), "--layout", layout]) == 0
    assert (tmp_path / "foreign/config.json").exists() == (layout == "diffusers")
    assert convert([str(tmp_path / "foreign"), str(tmp_path / "again")]) == 0
    shown = capsys.readouterr().out.splitlines()
    assert shown[0].endswith("foreign/diffusion_pytorch_model.safetensors")
    assert shown[1].endswith(f"the config that came with it; {len(model.dit.state_dict())} tensors read")
    assert_same(model, load_model(tmp_path / "again"))


def test_export_uses_official_names(tmp_path):
    model = lively(WAN)
    path = write_official(WAN, model.dit.state_dict(), {}, tmp_path)
    with safe_open(path, "pt") as file:
        assert set(file.keys()) == set(model.dit.state_dict())
        assert json.loads(file.metadata()["mvtrack_config"])["num_frames"] == 9


@pytest.mark.parametrize("config", [WAN, WITH_IMAGE], ids=["text", "image"])
def test_exported_model_equals_diffusers(diffusers, tmp_path, config):
    """Rays at zero effect: diffusers has no name for them."""
    model = lively(config)
    for block in model.dit.blocks:
        torch.nn.init.zeros_(block.camera_proj.weight)
        torch.nn.init.zeros_(block.camera_proj.bias)
    write_diffusers(config, model.dit.state_dict(), {}, tmp_path)
    theirs = diffusers.DiT.from_pretrained(tmp_path)
    latents, text, time = torch.randn(B, 16, F, H, W), torch.randn(B, L, 7), torch.tensor([321.0, 987.0])
    image = torch.randn(B, 257, 11) if config.dit.image_dim else None
    given = {} if image is None else {"encoder_hidden_states_image": image}
    with torch.no_grad():
        expected = theirs(latents, time, text, **given).sample
        conditioning = Conditioning(text=text, image=image, num_reference=0)
        ours = model.dit(latents.transpose(1, 2)[:, None], time, conditioning).prediction
    torch.testing.assert_close(ours[:, 0].transpose(1, 2), expected, atol=2e-5, rtol=0)
    assert expected.std() > 0.1


def test_export_beyond_diffusers_raises(tmp_path, small_model):
    with pytest.raises(ValueError, match="needs a text branch .*export --layout official"):
        diffusers_config(small_model.config.dit)
    with pytest.raises(ValueError, match="Wan's own RoPE only"):
        diffusers_config(replace(WAN.dit, rope_theta=100.0))
    with pytest.raises(ValueError, match="Wan's own RoPE only"):
        diffusers_config(replace(WAN.dit, rope_pairs=(4, 1, 1)))


@pytest.mark.parametrize(
    ("name", "lacking"),
    [
        ("recammaster_1.3b", "no dit.pose_encoder, dit.projector and"),
        ("redirector_1.3b", "no dit.control_adapter, dit.rope_phases, dit.rope_frames: shared and"),
    ],
)
def test_export_of_extra_branches_needs_one_file(tmp_path, name, lacking):
    with pytest.raises(ValueError, match=f"{lacking} would compute something else: export --layout official, one "):
        diffusers_config(preset(name).dit)
    branched = replace(WAN, dit=replace(WAN.dit, projector=True))
    state = lively(branched).dit.state_dict()
    with pytest.raises(ValueError, match="no dit.projector"):
        write_diffusers(branched, state, {}, tmp_path)
    assert not list(tmp_path.iterdir())
    with safe_open(write_official(branched, state, {}, tmp_path), "pt") as file:
        assert "blocks.0.projector.weight" in set(file.keys())


def test_export_does_not_overwrite(tmp_path, capsys):
    model = lively(WAN)
    write_official(WAN, model.dit.state_dict(), {}, tmp_path / "out")
    with pytest.raises(ValueError, match="diffusion_pytorch_model.safetensors exists already: choose another folder"):
        write_diffusers(WAN, model.dit.state_dict(), {}, tmp_path / "out")
    save_model(model, tmp_path / "own")
    assert convert([str(tmp_path / "out"), str(tmp_path / "own")]) == 2
    assert "own/model.safetensors exists already" in capsys.readouterr().err
    assert convert([str(tmp_path / "own"), str(tmp_path / "new")]) == 2
    assert "is a model of this project already: use it as it is" in capsys.readouterr().err


def test_released_file_error_names_convert(tmp_path):
    path = write_official(WAN, lively(WAN).dit.state_dict(), {}, tmp_path)
    with pytest.raises(ValueError, match=f"released weights become a model by `mvtrack convert {path} OUT`"):
        load_model(path)


def test_convert_records_encoder_paths(tmp_path, capsys, monkeypatch):
    write_official(WITH_TEXT, lively(WAN).dit.state_dict(), {}, tmp_path / "in")
    (tmp_path / "vae.pth").write_bytes(b"x")
    monkeypatch.chdir(tmp_path)
    assert convert(["in", "out", "--vae", "vae.pth", "--text", "maker/umt5", "--tokenizer", "maker/words"]) == 0
    made = read_config("out")
    assert made.codec.weights == str(tmp_path / "vae.pth")  # wherever it is used from
    assert (made.text.weights, made.text.tokenizer) == ("maker/umt5", "maker/words")
    assert replace(made, codec=WITH_TEXT.codec, text=WITH_TEXT.text) == WITH_TEXT
    capsys.readouterr()
    assert convert(["in", "other", "--image", "maker/clip"]) == 2
    assert "this model takes no --image: it has no such encoder" in capsys.readouterr().err


def test_text_encoder_override_brings_tokenizer():
    config = replace(WITH_TEXT, text=TextConfig(tokenizer="maker/words"))
    assert with_sources(config, EncoderSources(text="maker/umt5")).text.tokenizer is None
    assert with_sources(config, EncoderSources(vae="maker/vae")).text == config.text
    assert with_sources(config, EncoderSources(tokenizer="maker/others")).text.weights == config.text.weights


def test_convert_reports_fresh_and_dropped_parts(tmp_path, capsys):
    """Released Wan weights, made the start of a model with ReCamMaster's branches, but without a norm."""
    import yaml

    from mvtrack.config.tree import to_tree

    model = lively(WAN)
    released = {k: v for k, v in model.dit.state_dict().items() if "ray_encoder" not in k and "camera_proj" not in k}
    released["blocks.0.extra.weight"] = torch.ones(3)
    torch.save(released, tmp_path / "step.ckpt")
    config = replace(WAN, dit=replace(WAN.dit, pose_encoder=True, projector=True))
    tree = {"model": to_tree(config), "data": {"num_frames": 9, "banks": [{"size": [32, 48], "num_frames": 9}]}}
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(tree))
    arguments = [str(tmp_path / "step.ckpt"), str(tmp_path / "out"), "--config", str(tmp_path / "run.yaml")]
    assert convert(arguments) == 2
    assert "step.ckpt does not fit the model: blocks.0.cam_encoder.weight is missing" in capsys.readouterr().err
    arguments += ["--fresh", "blocks.*.cam_encoder.*", "--fresh", "blocks.*.projector.*"]
    arguments += ["--drop", "blocks.*.extra.*", "--dtype", "bfloat16"]
    assert convert(arguments) == 0
    shown = capsys.readouterr().out
    assert f"{len(released) - 1} tensors read; " in shown
    assert "blocks.*.cam_encoder.* 4" in shown
    assert "1 left out (blocks.*.extra.* 1)" in shown
    made = load_model(tmp_path / "out")
    assert made.config == config
    assert made.dit.head.modulation.dtype == torch.bfloat16
    assert torch.equal(made.dit.head.modulation, released["head.modulation"].bfloat16())
