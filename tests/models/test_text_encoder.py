import importlib.util

import pytest
import torch
from safetensors.torch import save_file

from mvtrack.config.encoders import TextConfig
from mvtrack.models import text_encoder
from mvtrack.models.text_encoder import NEGATIVE_PROMPT, embed_captions, encode, encoder_id, load_encoder
from mvtrack.models.weights.naming import TEXT_TRANSFORMERS
from mvtrack.models.weights.registry import registry
from mvtrack.models.weights.sources import open_part

needs_diffsynth = pytest.mark.skipif(not importlib.util.find_spec("diffsynth"), reason="diffsynth is not installed")
DIM, HEADS, BUCKETS, VOCABULARY = 12, 3, 8, 10  # of the fixture's encoder
LENGTH = 7


@pytest.fixture
def config(umt5) -> TextConfig:
    return TextConfig(weights=str(umt5), length=LENGTH, precision="float32")


def padded_by_the_peer(umt5, text: str) -> torch.Tensor:
    """The peer's way: all `LENGTH` tokens through its encoder with a mask, features behind the end set to zero."""
    module = text_encoder.diffsynth_module("wan_video_text_encoder")
    tokenizer = module.HuggingfaceTokenizer(name=str(umt5 / "google/umt5-xxl"), seq_len=LENGTH, clean="whitespace")
    ids, mask = tokenizer(text, return_mask=True, add_special_tokens=True)
    features = load_encoder(open_part(umt5, "text"), torch.float32)(ids, mask)
    return features[0] * mask[0, :, None]


@needs_diffsynth
def test_released_text_encoder_has_file_size():
    """Of DiffSynth's defaults, without storage; the file holds bfloat16, and pickle's own 99,746 bytes."""
    with torch.device("meta"):
        encoder = text_encoder.diffsynth_module("wan_video_text_encoder").WanTextEncoder()
    count = sum(parameter.numel() for parameter in encoder.parameters())
    assert count == 5_680_910_336
    assert registry()["umt5_xxl"].bytes == 2 * count + 99_746


@needs_diffsynth
def test_captions_keep_own_tokens(umt5, config, tmp_path):
    captions = ["a red ball rolls down the hill and on and on", "a  ball ", None]
    features = embed_captions(captions, config, tmp_path)
    assert features.shape == (3, LENGTH, DIM)
    for found, caption in zip(features, captions, strict=True):
        torch.testing.assert_close(found, padded_by_the_peer(umt5, caption or ""), atol=1e-6, rtol=1e-5)
    assert [int(row.abs().sum(-1).count_nonzero()) for row in features] == [LENGTH, 3, 1]


@needs_diffsynth
def test_captions_are_encoded_once(umt5, config, tmp_path, monkeypatch):
    loads = []
    monkeypatch.setattr(text_encoder, "load_encoder", lambda *a: loads.append(1) or load_encoder(*a))
    first = embed_captions(["a ball", "the hill", "a ball"], config, tmp_path)
    assert torch.equal(first[0], first[2])
    assert len(list(tmp_path.rglob("*.safetensors"))) == 2
    again = embed_captions(["the hill", "a ball"], config, tmp_path)
    assert torch.equal(again, first[[1, 0]])
    assert len(loads) == 1
    half = next(tmp_path.rglob("*.safetensors"))
    half.write_bytes(half.read_bytes()[:50])
    assert torch.equal(embed_captions(["the hill", "a ball"], config, tmp_path), again)
    assert len(loads) == 2


@needs_diffsynth
def test_cached_captions_need_no_diffsynth(config, tmp_path, monkeypatch):
    first = embed_captions(["down"], config, tmp_path)
    monkeypatch.setattr(text_encoder, "diffsynth_module", lambda name: pytest.fail("imported"))
    assert torch.equal(embed_captions(["down"], config, tmp_path), first)


def test_encoder_settings_change_cache(umt5, config, tmp_path):
    other = tmp_path / "other"
    other.mkdir()
    state = torch.load(umt5 / "models_t5_umt5-xxl-enc-bf16.pth", weights_only=True)
    state["norm.weight"][3] += 1e-3
    torch.save(state, other / "models_t5_umt5-xxl-enc-bf16.pth")
    configs = [
        config,
        TextConfig(str(umt5), None, LENGTH, "bfloat16"),
        TextConfig(str(umt5), None, LENGTH + 1, "float32"),
        TextConfig(str(other), str(umt5), LENGTH, "float32"),
    ]
    assert len({encoder_id(c) for c in configs}) == 4
    assert encoder_id(config) == encoder_id(TextConfig(str(umt5), str(umt5), LENGTH, "float32"))


@needs_diffsynth
def test_transformers_layout_gives_same_features(umt5, tmp_path):
    """Transformers' own encoder, DiffSynth's, and the renaming between them agree."""
    transformers = pytest.importorskip("transformers")
    official = torch.load(umt5 / "models_t5_umt5-xxl-enc-bf16.pth", weights_only=True)
    folder = tmp_path / "text_encoder"
    folder.mkdir()
    save_file({TEXT_TRANSFORMERS.from_official(k): v for k, v in official.items()}, folder / "model.safetensors")
    theirs = transformers.UMT5EncoderModel(
        transformers.UMT5Config(
            vocab_size=VOCABULARY, d_model=DIM, d_kv=5, d_ff=17, num_layers=2, num_heads=HEADS, dropout_rate=0.0,
            relative_attention_num_buckets=BUCKETS, feed_forward_proj="gated-gelu",
        )
    ).eval()  # fmt: skip
    state = {TEXT_TRANSFORMERS.from_official(k): v for k, v in official.items()}
    missing, unexpected = theirs.load_state_dict(state, strict=False)
    assert set(missing) <= {"encoder.embed_tokens.weight"}
    assert not unexpected
    theirs.encoder.embed_tokens.weight = theirs.shared.weight
    ids = torch.tensor([[3, 4, 5, 6, 1]])
    ours = load_encoder(open_part(tmp_path, "text"), torch.float32)
    with torch.no_grad():
        torch.testing.assert_close(ours(ids), theirs(ids).last_hidden_state, atol=1e-5, rtol=1e-5)


@needs_diffsynth
def test_text_encoder_is_freed(config, tmp_path, monkeypatch):
    import gc
    import weakref

    kept = []

    def loaded(*arguments):
        encoder = load_encoder(*arguments)
        kept.append(weakref.ref(encoder))
        return encoder

    monkeypatch.setattr(text_encoder, "load_encoder", loaded)
    embed_captions(["rolls"], config, tmp_path)
    gc.collect()
    assert kept[0]() is None


def test_missing_weights_raise_by_name(tmp_path, umt5):
    with pytest.raises(ValueError, match="no text weights in .*models_t5_umt5-xxl-enc-bf16"):
        embed_captions(["a"], TextConfig(weights=str(tmp_path)), tmp_path / "cache")
    (tmp_path / "models_t5_umt5-xxl-enc-bf16.pth").write_bytes(b"PK")
    with pytest.raises(ValueError, match="no tokenizer weights in"):
        embed_captions(["a"], TextConfig(weights=str(tmp_path)), tmp_path / "cache")
    with pytest.raises(ValueError, match="bf16.pth is damaged or was cut off"):
        embed_captions(["a"], TextConfig(weights=str(tmp_path), tokenizer=str(umt5)), tmp_path / "cache")


def test_padding_is_not_encoded():
    """The encoder sees a caption's tokens and its end mark, not the padding."""
    seen = []

    def encoder(ids, mask):
        seen.append((ids.tolist(), mask.tolist()))
        return torch.ones(1, ids.shape[1], 5)

    def tokenizer(text, return_mask, add_special_tokens):
        return torch.tensor([[8, 9, 1, 0, 0]]), torch.tensor([[1, 1, 1, 0, 0]])

    assert encode(encoder, tokenizer, "x", "cpu").shape == (3, 5)
    assert seen == [([[8, 9, 1]], [[1, 1, 1]])]


def test_negative_prompt_equals_wan():
    assert len(NEGATIVE_PROMPT.split("，")) == 28
    assert NEGATIVE_PROMPT.startswith("色调艳丽")
    assert NEGATIVE_PROMPT.endswith("倒着走")
