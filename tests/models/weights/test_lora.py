"""LoRA files in every layout, written by hand from one adapter: merged they give the very same model."""

import json
from copy import deepcopy

import pytest
import torch
from safetensors.torch import save_file

from mvtrack.config.placement import Placement
from mvtrack.inference.device import place
from mvtrack.models.diffusers_parts import peft_member
from mvtrack.models.reshoot_model import load_model, save_model
from mvtrack.models.weights.lora import LoRA, LowRank, lora_file, merge_all, merge_lora, open_lora, split_weight
from mvtrack.models.weights.lora_files import write_lora
from mvtrack.models.weights.naming import DIT_DIFFUSERS
from mvtrack.training.export import export_model

RANK = 3
MODULES = ("blocks.0.self_attn.q", "blocks.1.self_attn.o", "blocks.1.ffn.0", "blocks.0.ffn.2")


@pytest.fixture
def network(small_model):
    return deepcopy(small_model.dit)


@pytest.fixture
def adapter(network, generator) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    """down (A) and up (B) by module."""
    shapes = {name: network.get_submodule(name).weight.shape for name in MODULES}
    return {
        name: (torch.randn(RANK, i, generator=generator), torch.randn(o, RANK, generator=generator))
        for name, (o, i) in shapes.items()
    }


def diffusers_name(module: str) -> str:
    return DIT_DIFFUSERS.from_official(f"{module}.weight").removesuffix(".weight")


def written(adapter: dict, layout: str, path) -> str:
    """One file of the layout, all of them for a scale of 2."""
    alpha, state = torch.tensor(2.0 * RANK), {}
    for module, (down, up) in adapter.items():
        if layout == "peft":
            state |= {f"base_model.model.{module}.lora_A.weight": down, f"base_model.model.{module}.lora_B.weight": up}
        elif layout == "diffusers":
            name = f"transformer.{diffusers_name(module)}"
            state |= {f"{name}.lora_A.weight": down, f"{name}.lora_B.weight": up, f"{name}.alpha": alpha.clone()}
        elif layout == "ComfyUI":
            name = f"diffusion_model.{module}"
            state |= {f"{name}.lora_down.weight": down, f"{name}.lora_up.weight": up, f"{name}.alpha": alpha.clone()}
        elif layout == "kohya":
            name = f"lora_unet_{module.replace('.', '_')}"
            state |= {f"{name}.lora_down.weight": down, f"{name}.lora_up.weight": up, f"{name}.alpha": alpha.clone()}
        else:  # DiffSynth has no alpha: the scale is in the weights
            state |= {
                f"{layout}{module}.lora_A.default.weight": down,
                f"{layout}{module}.lora_B.default.weight": 2 * up,
            }
    if layout == "peft":
        path.mkdir()
        (path / "adapter_config.json").write_text(json.dumps({"r": RANK, "lora_alpha": 2 * RANK}))
        save_file(state, path / "adapter_model.safetensors")
        return str(path)
    save_file(state, path.with_suffix(".safetensors"))
    return str(path.with_suffix(".safetensors"))


@pytest.mark.parametrize("layout", ["peft", "diffusers", "ComfyUI", "kohya", "", "pipe.dit."])
def test_every_layout_adds_the_product_of_its_pairs(network, adapter, tmp_path, layout):
    before = {name: value.clone() for name, value in network.state_dict().items()}
    source = written(adapter, layout, tmp_path / "lora")
    assert open_lora(lora_file(source)).layout == {"": "DiffSynth", "pipe.dit.": "DiffSynth"}.get(layout, layout)
    merge_all(network, (f"{source}:0.5",))
    for name, value in network.state_dict().items():
        pair = adapter.get(name.removesuffix(".weight"))
        expected = before[name] if pair is None else before[name] + 0.5 * 2 * pair[1] @ pair[0]
        torch.testing.assert_close(value, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("layout", ["peft", "diffusers", "comfyui", "diffsynth"])
def test_what_is_written_reads_back_and_is_written_again(network, adapter, tmp_path, layout):
    pairs = {module: LowRank(*pair, 0.5) for module, pair in adapter.items()}
    written_file = write_lora(LoRA(tmp_path, "peft", pairs, {}), tmp_path / "one", layout)
    again = open_lora(write_lora(open_lora(written_file), tmp_path / "two", "peft"))
    assert again.pairs.keys() == pairs.keys()
    for module, pair in pairs.items():
        shape = network.get_submodule(module).weight.shape
        torch.testing.assert_close(again.pairs[module].delta(shape), pair.delta(shape), atol=1e-6, rtol=1e-6)


def test_peft_reads_what_is_written(network, adapter, tmp_path, generator):
    lora = LoRA(tmp_path, "peft", {module: LowRank(*pair, 0.5) for module, pair in adapter.items()}, {})
    write_lora(lora, tmp_path / "lora", "peft")
    loaded = peft_member("PeftModel").from_pretrained(deepcopy(network), str(tmp_path / "lora"))
    merge_lora(network, lora)
    x = torch.randn(5, 24, generator=generator)
    for module in ("blocks.0.self_attn.q", "blocks.1.ffn.0"):
        theirs = loaded.base_model.model.get_submodule(module)(x)
        torch.testing.assert_close(network.get_submodule(module)(x), theirs, atol=1e-5, rtol=1e-5)


def test_what_a_layout_cannot_hold_is_refused(adapter, tmp_path):
    first, second = (LowRank(*pair, scale) for pair, scale in zip(adapter.values(), (0.5, 1.0), strict=False))
    mixed = LoRA(tmp_path, "peft", {MODULES[0]: first, MODULES[1]: second}, {})
    with pytest.raises(ValueError, match="has layers of different rank or scale: choose another layout than peft"):
        write_lora(mixed, tmp_path / "out", "peft")
    with pytest.raises(ValueError, match="blocks.0.camera_proj, which has no name in diffusers"):
        write_lora(LoRA(tmp_path, "peft", {"blocks.0.camera_proj": first}, {}), tmp_path / "out", "diffusers")
    whole = LoRA(tmp_path, "ComfyUI", {}, {"blocks.0.self_attn.q.bias": torch.ones(24)})
    with pytest.raises(ValueError, match="holds blocks.0.self_attn.q.bias as a whole difference, which only layout"):
        write_lora(whole, tmp_path / "out", "diffsynth")
    assert open_lora(write_lora(whole, tmp_path / "out", "comfyui")).differences.keys() == whole.differences.keys()
    path = write_lora(mixed, tmp_path / "short", "comfyui")
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(ValueError, match="lora.safetensors is not a whole safetensors file"):
        open_lora(path)


def test_merged_equals_the_adapter_beside_the_layer(network, adapter, tmp_path, generator):
    """What peft computes: W x + scale B (A x)."""
    layer = network.get_submodule(MODULES[2])
    x = torch.randn(5, layer.in_features, generator=generator)
    down, up = adapter[MODULES[2]]
    expected = layer(x) + 2 * (x @ down.T) @ up.T
    merge_all(network, (written(adapter, "peft", tmp_path / "lora"),))
    torch.testing.assert_close(layer(x), expected, atol=1e-4, rtol=1e-5)


def test_several_adapters_add_up_and_a_negative_weight_takes_one_away(network, adapter, tmp_path):
    before = deepcopy(network.state_dict())
    one, other = written(adapter, "ComfyUI", tmp_path / "one"), written(adapter, "kohya", tmp_path / "other")
    merge_all(network, (one, f"{other}:-1"))
    for name, value in network.state_dict().items():
        torch.testing.assert_close(value, before[name], atol=1e-5, rtol=1e-5)


def test_whole_differences_of_weights_and_biases_are_added(network, tmp_path):
    name = "blocks.0.self_attn.norm_q"
    before, bias = network.get_submodule(name).weight.clone(), network.get_submodule(MODULES[0]).bias.clone()
    state = {
        f"diffusion_model.{name}.diff": torch.full_like(before, 0.25),
        f"diffusion_model.{MODULES[0]}.diff_b": torch.full_like(bias, -0.5),
    }
    save_file(state, tmp_path / "lora.safetensors")
    merge_all(network, (str(tmp_path / "lora.safetensors"),))
    torch.testing.assert_close(network.get_submodule(name).weight, before + 0.25)
    torch.testing.assert_close(network.get_submodule(MODULES[0]).bias, bias - 0.5)


def test_placed_and_exported_models_are_the_same(small_model, adapter, tmp_path):
    save_model(small_model, tmp_path / "model")
    source = f"{written(adapter, 'diffusers', tmp_path / 'lora')}:0.7"
    placed = place(load_model(tmp_path / "model"), Placement(device="cpu", lora=(source,)))
    export_model(tmp_path / "model", tmp_path / "merged", "mvtrack", (source,))
    merged = load_model(tmp_path / "merged")
    for name, value in merged.dit.state_dict().items():
        assert torch.equal(value, placed.dit.state_dict()[name]), name
    assert Placement(device="cpu", lora=(source,)).record()["lora"] == [source]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a/b.safetensors", ("a/b.safetensors", 1.0)),
        ("a/b.safetensors:0.8", ("a/b.safetensors", 0.8)),
        ("owner/name:file.safetensors", ("owner/name:file.safetensors", 1.0)),
        ("owner/name:file.safetensors:-1e-1", ("owner/name:file.safetensors", -0.1)),
    ],
)
def test_weight_stands_behind_the_last_colon(text, expected):
    assert split_weight(text) == expected


def broken(adapter: dict, what: str) -> dict[str, torch.Tensor]:
    down, up = adapter[MODULES[0]]
    first = f"diffusion_model.{MODULES[0]}"
    return {
        "half": {f"{first}.lora_down.weight": down},
        "ranks": {f"{first}.lora_down.weight": down, f"{first}.lora_up.weight": up[:, :-1].contiguous()},
        "deep": {
            "diffusion_model.blocks.7.ffn.0.lora_A.weight": down,
            "diffusion_model.blocks.7.ffn.0.lora_B.weight": up,
        },
        "wide": {f"{first}.lora_A.weight": torch.zeros(RANK, 99), f"{first}.lora_B.weight": up},
        "dora": {f"{first}.dora_scale": up},
        "model": {"blocks.0.self_attn.q.weight": up},
    }[what]


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("half", r"is cut short: blocks.0.self_attn.q has no lora_B"),
        ("ranks", r"blocks.0.self_attn.q has parts of different ranks, 3 and \[24, 2\]"),
        ("deep", r"blocks.7.ffn.0 is no layer of the model, which has 2 blocks; it was made for another one"),
        ("wide", r"blocks.0.self_attn.q is \[24, 99\] there and \[24, 24\] in the model"),
        ("dora", r"blocks.0.self_attn.q.dora_scale is no part of a LoRA that is known here"),
        ("model", r"blocks.0.self_attn.q.weight is no part of a LoRA that is known here"),
    ],
)
def test_what_does_not_fit_is_refused_and_changes_nothing(network, adapter, tmp_path, what, message):
    before = deepcopy(network.state_dict())
    path = tmp_path / "lora.safetensors"
    save_file(broken(adapter, what), path)
    with pytest.raises(ValueError, match=message):
        merge_lora(network, open_lora(path))
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


def test_missing_files_and_patterns_of_ranks_are_refused(adapter, tmp_path):
    with pytest.raises(ValueError, match="LoRA nowhere does not exist: give a file, a folder, or owner/name:file"):
        lora_file("nowhere")
    with pytest.raises(ValueError, match="holds 0 safetensors files: name the one that is meant"):
        lora_file(str(tmp_path))
    folder = written(adapter, "peft", tmp_path / "lora")
    settings = {"r": RANK, "lora_alpha": 1, "rank_pattern": {"q": 8}}
    (tmp_path / "lora/adapter_config.json").write_text(json.dumps(settings))
    with pytest.raises(ValueError, match="uses peft's rank_pattern, which is not read here"):
        open_lora(lora_file(folder))
