from dataclasses import replace

import pytest
import torch

from mvtrack.config.encoders import CodecConfig, ImageConfig, TextConfig
from mvtrack.config.model import DiTConfig, ModelConfig, RayConfig
from mvtrack.models import prompts
from mvtrack.models.prompts import Captions, make_prompts
from mvtrack.models.text_encoder import NEGATIVE_PROMPT

FRAME = torch.zeros(3, 5, 7)
CONFIG = ModelConfig(
    dit=DiTConfig(dim=24, ffn_dim=28, num_heads=2, num_layers=2, text_dim=3, freq_dim=10, image_dim=11),
    rays=RayConfig(token_px=16),
    codec=CodecConfig(kind="wan_vae", channels=16, stride=8, weights="vae"),
    text=TextConfig(weights="umt5"),
    image=ImageConfig(weights="clip"),
    tap_layer=1,
)
WITHOUT = replace(CONFIG, dit=replace(CONFIG.dit, text_dim=0, image_dim=0), text=None, image=None)


@pytest.fixture
def asked(monkeypatch) -> list:
    """What the encoders were asked, in place of encoders."""
    seen = []

    def captions(texts, config, cache, device):
        seen.append((list(texts), config.weights))
        return torch.arange(len(texts)).float()[:, None, None].expand(-1, 5, 3)

    def images(pictures, source, device):
        seen.append((tuple(pictures.shape), source))
        return torch.ones(1, 13, 11)

    monkeypatch.setattr(prompts, "embed_captions", captions)
    monkeypatch.setattr(prompts, "embed_images", images)
    return seen


def test_guidance_encodes_negative_prompt(asked):
    made = make_prompts(CONFIG, FRAME, Captions("a ball", guidance=5.0))
    assert asked == [(["a ball", NEGATIVE_PROMPT], "umt5"), ((1, 3, 5, 7), "clip")]
    assert made.text.shape == made.negative_text.shape == (5, 3)
    assert made.negative_text[0, 0] == 1
    assert made.image.shape == (13, 11)
    make_prompts(CONFIG, FRAME, Captions("a ball", negative="", guidance=5.0))
    assert asked[2] == (["a ball", ""], "umt5")


def test_prompts_without_guidance_are_single(asked):
    made = make_prompts(CONFIG, FRAME)
    assert asked[0] == ([None], "umt5")
    assert made.negative_text is None


def test_branchless_model_needs_no_prompts(asked):
    assert make_prompts(WITHOUT, FRAME) == prompts.Prompts()
    assert asked == []


@pytest.mark.parametrize(
    ("config", "given", "message"),
    [
        (WITHOUT, {"caption": "a"}, "takes no captions"),
        (WITHOUT, {"guidance": 5.0}, "takes no captions"),
        (replace(CONFIG, text=None), {}, "names no text encoder: set model.text"),
        (replace(CONFIG, image=None), {}, "names no image encoder: set model.image"),
        (replace(CONFIG, dit=replace(CONFIG.dit, text_dim=5)), {}, "umt5 gives 3 values a token, dit.text_dim is 5"),
        (replace(CONFIG, dit=replace(CONFIG.dit, image_dim=5)), {}, "clip gives 11 values a token, dit.image_dim is 5"),
    ],
)
def test_mismatched_prompts_raise(asked, config, given, message):
    with pytest.raises(ValueError, match=message):
        make_prompts(config, FRAME, Captions(**given))


def test_encoder_without_branch_raises():
    with pytest.raises(ValueError, match="set them null where that is 0"):
        replace(CONFIG, dit=replace(CONFIG.dit, text_dim=0, image_dim=0))
