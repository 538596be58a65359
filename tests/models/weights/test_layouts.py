import pytest
import torch
from safetensors.torch import save_file

from mvtrack.models.weights.layouts import identify, open_dit, with_official_names
from mvtrack.models.weights.naming import DIT_DIFFUSERS, TEXT_TRANSFORMERS, VAE_DIFFUSERS


@pytest.mark.parametrize(
    ("name", "part", "layout"),
    [
        ("wan2.1_t2v_1.3b", "dit", "official"),
        ("recammaster_1.3b", "dit", "official"),
        ("redirector_base_fun_control_camera_1.3b", "dit", "official"),
        ("redirector_delta", "dit", "self-attention delta"),
        ("wan2.1_t2v_1.3b_diffusers", "dit", "diffusers"),
        ("wan2.1_vae", "vae", "official"),
    ],
)
@pytest.mark.parametrize("prefix", ["", "model.", "model.diffusion_model.", "pipe.dit."])
def test_golden_layouts_are_identified_by_keys(released, name, part, layout, prefix):
    checkpoint = released(name).renamed(lambda key: prefix + key)
    found = identify(checkpoint)
    assert (found.layout.part, found.layout.name, found.prefix) == (part, layout, prefix)
    official = "wan2.1_t2v_1.3b" if layout == "diffusers" else name
    assert with_official_names(checkpoint, part).shapes == released(official).shapes


def test_golden_diffusers_names_of_the_transformer(key_rows):
    rows = key_rows("wan2.1_t2v_1.3b_diffusers")
    assert len(rows) == 825
    for diffusers, _, _, official in rows:
        assert DIT_DIFFUSERS.to_official(diffusers) == official
        assert DIT_DIFFUSERS.from_official(official) == diffusers


def test_golden_image_branch_has_diffusers_names(released):
    names = released("redirector_base_fun_control_camera_1.3b").shapes
    unknown = {name for name in names if DIT_DIFFUSERS.from_official(name) is None}
    assert unknown == {name for name in names if name.startswith("control_adapter.")}
    known = names.keys() - unknown
    assert {DIT_DIFFUSERS.to_official(DIT_DIFFUSERS.from_official(name)) for name in known} == known


def test_golden_vae_names_round_trip(released):
    names = released("wan2.1_vae").shapes
    there = {name: VAE_DIFFUSERS.from_official(name) for name in names}
    assert len(set(there.values())) == len(names) == 194
    assert {VAE_DIFFUSERS.to_official(other) for other in there.values()} == names.keys()
    assert there["decoder.upsamples.4.shortcut.bias"] == "decoder.up_blocks.1.resnets.0.conv_shortcut.bias"
    assert there["decoder.upsamples.7.time_conv.weight"] == "decoder.up_blocks.1.upsamplers.0.time_conv.weight"


def test_golden_vae_names_and_shapes_equal_diffusers(released, diffusers):
    with torch.device("meta"):
        theirs = diffusers.VAE(base_dim=96, z_dim=16).state_dict()
    checkpoint = released("wan2.1_vae")
    converted = diffusers.convert_vae({name: name for name in checkpoint.shapes})
    assert {VAE_DIFFUSERS.from_official(official): official for official in checkpoint.shapes} == converted
    ours = checkpoint.renamed(VAE_DIFFUSERS.from_official).shapes
    assert ours == {name: tuple(value.shape) for name, value in theirs.items()}


def test_text_encoder_names_round_trip():
    leaves = [f"attn.{x}.weight" for x in "qkvo"] + ["pos_embedding.embedding.weight", "norm1.weight", "norm2.weight"]
    leaves += ["ffn.gate.0.weight", "ffn.fc1.weight", "ffn.fc2.weight"]
    names = ["token_embedding.weight", "norm.weight", *(f"blocks.{i}.{leaf}" for i in (0, 23) for leaf in leaves)]
    there = [TEXT_TRANSFORMERS.from_official(name) for name in names]
    assert there[0] == "shared.weight"
    assert there[-1] == "encoder.block.23.layer.1.DenseReluDense.wo.weight"
    assert [TEXT_TRANSFORMERS.to_official(name) for name in there] == names


@pytest.mark.parametrize("tied", [True, False])
def test_tied_embedding_counts_once(invented, tied):
    keys = {"encoder.embed_tokens.weight": (5, 3), "encoder.block.0.layer.0.SelfAttention.q.weight": (3, 3)}
    keys |= {"shared.weight": (5, 3)} if tied else {}
    assert with_official_names(invented(keys), "text").shapes == {
        "token_embedding.weight": (5, 3),
        "blocks.0.attn.q.weight": (3, 3),
    }


def test_clip_text_half_is_dropped(invented):
    checkpoint = invented({"visual.cls_embedding": (1, 1, 5), "textual.norm.weight": (7,), "log_scale": ()})
    assert with_official_names(checkpoint, "image").shapes == {"visual.cls_embedding": (1, 1, 5)}


def test_golden_wrong_and_unknown_parts_raise(released, invented):
    with pytest.raises(ValueError, match="wan2.1_vae.safetensors is a VAE, a video transformer was expected"):
        with_official_names(released("wan2.1_vae"), "dit")
    with pytest.raises(ValueError, match="not a known kind of Wan weights: its 2 tensors begin with conv.weight, fc"):
        identify(invented({"conv.weight": (3,), "fc.bias": (2,)}))
    strange = {"decoder.mid_block.resnets.0.norm1.gamma": (2, 1, 1, 1), "decoder.adapter.weight": (3,)}
    with pytest.raises(ValueError, match="1 names of the diffusers layout have no official counterpart, decoder.ad"):
        with_official_names(invented(strange), "vae")
    with pytest.raises(ValueError, match="extra lacks the beginning 'model.'"):
        with_official_names(invented({"model.head.modulation": (1, 2, 3), "extra": (1,)}), "dit")


def test_delta_is_told_from_whole_transformer(tmp_path):
    save_file({"blocks.0.self_attn.q.weight": torch.zeros(2, 2)}, tmp_path / "delta.safetensors")
    whole = {"blocks.0.self_attn.q.weight": torch.zeros(2, 2), "head.modulation": torch.zeros(1, 2, 2)}
    save_file(whole, tmp_path / "whole.safetensors")
    assert open_dit(tmp_path / "delta.safetensors").is_delta
    assert not open_dit(tmp_path / "whole.safetensors").is_delta
