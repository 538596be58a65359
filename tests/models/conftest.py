"""Tiny encoders and VAEs of random weights, in files as releases have them."""

import json

import pytest
import torch

from mvtrack.models.diffsynth_parts import diffsynth_module
from mvtrack.models.vae import LATENT_MEAN, LATENT_STD

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
