"""Tiny encoders and VAEs of random weights, in files as releases have them."""

import importlib.util
import json
from types import SimpleNamespace

import pytest
import torch
from safetensors import safe_open

from mvtrack.models.diffsynth_parts import diffsynth_module
from mvtrack.models.wan_vae import LATENT_MEAN, LATENT_STD

WORDS = ["<pad>", "</s>", "<unk>", "a", "red", "ball", "rolls", "down", "the", "hill"]
DIM, HEADS, BUCKETS = 12, 3, 8


@pytest.fixture(scope="session")
def umt5(tmp_path_factory):
    """A folder as Wan's release has it: a tiny encoder of random weights and a tokenizer of ten words."""
    folder = tmp_path_factory.mktemp("umt5")
    g = torch.Generator().manual_seed(5)
    shapes = {"token_embedding.weight": (len(WORDS), DIM), "norm.weight": (DIM,)}
    for i in range(2):
        block = {f"attn.{x}": (15, DIM) for x in "qkv"} | {"attn.o": (DIM, 15), "norm1": (DIM,), "norm2": (DIM,)}
        block |= {"pos_embedding.embedding": (BUCKETS, HEADS), "ffn.gate.0": (17, DIM)}
        block |= {"ffn.fc1": (17, DIM), "ffn.fc2": (DIM, 17)}
        shapes |= {f"blocks.{i}.{name}.weight": shape for name, shape in block.items()}
    state = {name: torch.randn(shape, generator=g) / 2 for name, shape in shapes.items()}
    torch.save(state, folder / "models_t5_umt5-xxl-enc-bf16.pth")
    tokens = folder / "google/umt5-xxl"
    tokens.mkdir(parents=True)
    end = {"id": "</s>", "ids": [1], "tokens": ["</s>"]}
    tokenizer = {
        "version": "1.0", "truncation": None, "padding": None, "normalizer": None, "decoder": None,
        "added_tokens": [
            {"id": i, "content": word, "single_word": False, "lstrip": False, "rstrip": False, "normalized": False,
             "special": True}
            for i, word in enumerate(WORDS[:3])
        ],
        "pre_tokenizer": {"type": "Whitespace"},
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [{"Sequence": {"id": "A", "type_id": 0}}, {"SpecialToken": {"id": "</s>", "type_id": 0}}],
            "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 0}}],
            "special_tokens": {"</s>": end},
        },
        "model": {"type": "WordLevel", "vocab": {word: i for i, word in enumerate(WORDS)}, "unk_token": "<unk>"},
    }  # fmt: skip
    (tokens / "tokenizer.json").write_text(json.dumps(tokenizer))
    names = {"pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"}
    (tokens / "tokenizer_config.json").write_text(json.dumps(names | {"tokenizer_class": "PreTrainedTokenizerFast"}))
    return folder


@pytest.fixture(scope="session")
def wan_vae_peer():
    """DiffSynth's own module, with random weights of width 4; its encoder and decoder are lively."""

    module = diffsynth_module("wan_video_vae")
    vae = module.WanVideoVAE.__new__(module.WanVideoVAE)  # without the full-size network that its constructor makes
    torch.nn.Module.__init__(vae)
    vae.scale = [torch.tensor(LATENT_MEAN), 1 / torch.tensor(LATENT_STD)]
    vae.upsampling_factor, vae.z_dim = 8, 16
    with torch.random.fork_rng():
        torch.manual_seed(5)
        vae.model = module.VideoVAE_(dim=4).eval().requires_grad_(False)
        for name, parameter in vae.model.named_parameters():
            if "proj" in name or "to_qkv" in name:
                torch.nn.init.normal_(parameter, std=0.3)
        for head in (vae.model.encoder.head, vae.model.decoder.head):
            head[-1].weight.mul_(5)
    return vae


@pytest.fixture(scope="session")
def wan_vae_file(wan_vae_peer, tmp_path_factory):
    """The peer's weights as a release has them: official names."""
    path = tmp_path_factory.mktemp("vae") / "Wan2.1_VAE.pth"
    torch.save(wan_vae_peer.model.state_dict(), path)
    return path


WAN_SIZES = {"dim": 96, "ffn_dim": 160, "num_heads": 3, "num_layers": 3, "text_dim": 40, "freq_dim": 32, "eps": 1e-6}


@pytest.fixture(params=["live", pytest.param("recorded", marks=pytest.mark.shared)])
def wan_numbers(request, shared) -> SimpleNamespace:
    """DiffSynth's Wan transformer of random weights: sizes, weights, and tensors named as in tests/golden/README.md.

    Computed by the installed DiffSynth, and as recorded from version 2.1.12.
    """
    if request.param == "live":
        return request.getfixturevalue("live_wan_numbers")
    with safe_open(shared("golden/backbones/dit_wan.safetensors"), "pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        config = json.loads(file.metadata()["config"])
    weights = {name[2:]: value for name, value in tensors.items() if name.startswith("w.")}
    return SimpleNamespace(sizes={name: config[name] for name in WAN_SIZES}, weights=weights, tensors=tensors)


@pytest.fixture(scope="session")
def live_wan_numbers() -> SimpleNamespace:
    if not importlib.util.find_spec("diffsynth"):
        pytest.skip("needs diffsynth: pip install -e '.[wan]'")
    model = diffsynth_module("wan_video_dit").WanModel
    from diffsynth.pipelines.wan_video import model_fn_wan_video

    g = torch.Generator().manual_seed(11)
    peer = model(in_dim=16, out_dim=16, patch_size=(1, 2, 2), has_image_input=False, **WAN_SIZES)
    for name, parameter in peer.named_parameters():  # nothing may hide behind a zero or a one
        spread = parameter[0].numel() ** -0.5 if parameter.ndim > 1 and "modulation" not in name else 0.1
        gain = float("norm" in name and name.endswith("weight"))
        parameter.data = gain + spread * torch.randn(parameter.shape, generator=g)
    inputs = {
        "latents": torch.randn(2, 16, 3, 8, 12, generator=g),
        "timestep": torch.tensor([273.0, 811.0]),
        "context": torch.randn(2, 11, WAN_SIZES["text_dim"], generator=g),
    }
    tensors = {f"in.{name}": value for name, value in inputs.items()}
    for i, block in enumerate(peer.blocks):
        block.register_forward_hook(lambda _m, _inputs, out, i=i: tensors.update({f"out.block{i}": out}))
    peer.blocks[1].self_attn.attn.register_forward_pre_hook(
        lambda _m, qkv: tensors.update({"out.q": qkv[0], "out.k": qkv[1]})
    )
    with torch.no_grad():
        tensors["out.velocity"] = model_fn_wan_video(peer, **inputs)
    return SimpleNamespace(sizes=WAN_SIZES, weights=peer.state_dict(), tensors=tensors)
