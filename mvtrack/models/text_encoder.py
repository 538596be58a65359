"""Captions to Wan's text features, by umT5: each caption once, kept on disk, and the encoder freed afterwards.

The encoder has 5.7 billion parameters; it is read only when a caption is not in the cache yet.
"""

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from mvtrack.config.encoders import TextConfig
from mvtrack.files.cache import cache_folder
from mvtrack.models.cached_weights import without_network
from mvtrack.models.diffsynth_parts import diffsynth_module
from mvtrack.models.feature_cache import read_features, write_features
from mvtrack.models.weights.checkpoint import Checkpoint
from mvtrack.models.weights.fingerprint import fingerprint
from mvtrack.models.weights.loading import load_into
from mvtrack.models.weights.sources import open_part, resolve

# What Wan's authors steer away from (`sample_neg_prompt` of the release); ReCamMaster and ReDirector use it too.
NEGATIVE_PROMPT = (
    "色调艳丽，过曝，静态，细节模糊不清，字幕，风格，作品，画作，画面，静止，整体发灰，最差质量，低质量，JPEG压缩残留，"
    "丑陋的，残缺的，多余的手指，画得不好的手部，画得不好的脸部，畸形的，毁容的，形态畸形的肢体，手指融合，静止不动的画面，"
    "杂乱的背景，三条腿，背景人很多，倒着走"
)
NO_CAPTION = ""  # what a clip without a caption is encoded as


Tokenizer = Callable[..., tuple[Tensor, Tensor]]  # DiffSynth's: ids and mask (1, L), padded and cut to its length
Encoder = Callable[[Tensor, Tensor], Tensor]  # ids and mask (1, n) to features (1, n, t)


def embed_captions(
    captions: Sequence[str | None], config: TextConfig, cache: Path | None = None, device: torch.device | str = "cpu"
) -> Float[Tensor, "B L t"]:
    """Features of captions (None: no caption), float32, zero behind each caption's end: Wan's transformer wants that.

    cache: folder of features that were computed before, default `cache_folder()`. device: where the encoder runs if it
    has to. Raises ValueError when weights, tokenizer or DiffSynth are missing.
    """
    texts, files = [caption or NO_CAPTION for caption in captions], _files(captions, config, cache)
    known = {text: found for text, file in files.items() if (found := read_features(file)) is not None}
    missing = [text for text in files if text not in known]
    if missing:
        for text, features in _encode(missing, config, device).items():
            write_features(files[text], features)
            known[text] = features
    return torch.stack([_padded(known[text], config.length) for text in texts])


def are_cached(captions: Sequence[str | None], config: TextConfig, cache: Path | None = None) -> bool:
    """Whether no encoder is needed. Nothing is downloaded to tell."""
    try:
        with without_network():
            return all(read_features(file) is not None for file in _files(captions, config, cache).values())
    except ValueError:
        return False  # the weights, which features are named after, are not there


def _files(captions: Sequence[str | None], config: TextConfig, cache: Path | None) -> dict[str, Path]:
    """Where each caption's features are kept, or will be."""
    folder = (cache or cache_folder() / "text") / encoder_id(config)
    texts = [caption or NO_CAPTION for caption in captions]
    return {text: folder / f"{hashlib.sha256(text.encode()).hexdigest()}.safetensors" for text in texts}


def encoder_id(config: TextConfig) -> str:
    """A name for what computes the features: other weights, tokenizer or settings never share a cache."""
    parts = [
        fingerprint(resolve(config.weights, "text")),
        fingerprint(resolve(config.tokenizer or config.weights, "tokenizer")),
    ]
    return hashlib.sha256(f"{parts} {config.length} {config.precision}".encode()).hexdigest()[:16]


def load_encoder(checkpoint: Checkpoint, dtype: torch.dtype) -> nn.Module:
    """DiffSynth's umT5 with a checkpoint's weights (official names); its sizes are read from the shapes."""
    shapes = checkpoint.shapes
    vocabulary, dim = shapes["token_embedding.weight"]
    module = diffsynth_module("wan_video_text_encoder")
    with torch.device("meta"):
        encoder = module.WanTextEncoder(
            vocab=vocabulary,
            dim=dim,
            dim_attn=shapes["blocks.0.attn.q.weight"][0],
            dim_ffn=shapes["blocks.0.ffn.fc1.weight"][0],
            num_heads=shapes["blocks.0.pos_embedding.embedding.weight"][1],
            num_buckets=shapes["blocks.0.pos_embedding.embedding.weight"][0],
            num_layers=sum(name.endswith(".attn.q.weight") for name in shapes),
        )
    load_into(encoder, checkpoint, dtype=dtype)
    return encoder.eval().requires_grad_(False)


@torch.no_grad()
def encode(encoder: Encoder, tokenizer: Tokenizer, text: str, device: torch.device | str) -> Float[Tensor, "n t"]:
    """Features of one caption's own tokens, its end mark among them.

    Captions go through alone: padding does not change a caption's features, and none is computed.
    """
    ids, mask = tokenizer(text, return_mask=True, add_special_tokens=True)
    ids = _own_tokens(ids, mask).to(device)
    return encoder(ids, torch.ones_like(ids))[0].float().cpu()


def _own_tokens(ids: Int[Tensor, "1 L"], mask: Int[Tensor, "1 L"]) -> Int[Tensor, "1 n"]:
    return ids[:, : int(mask.sum())]


def _encode(texts: list[str], config: TextConfig, device: torch.device | str) -> dict[str, Tensor]:
    """Load the encoder, encode, and let go of it."""
    tokens = resolve(config.tokenizer or config.weights, "tokenizer")
    checkpoint = open_part(config.weights, "text")
    module = diffsynth_module("wan_video_text_encoder")
    tokenizer = module.HuggingfaceTokenizer(name=str(tokens), seq_len=config.length, clean="whitespace")
    encoder = load_encoder(checkpoint, getattr(torch, config.precision)).to(device)
    features = {text: encode(encoder, tokenizer, text, device) for text in texts}
    del encoder
    if torch.device(device).type == "cuda":
        torch.cuda.empty_cache()
    return features


def _padded(features: Float[Tensor, "n t"], length: int) -> Float[Tensor, "L t"]:
    return nn.functional.pad(features, (0, 0, 0, length - len(features)))
