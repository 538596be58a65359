"""Which encoders a config means: as names that change with their weights and settings, by which a cache is keyed, and
how a model comes to name other places of theirs."""

import hashlib
from dataclasses import replace
from pathlib import Path

from mvtrack.backbone.codec import VideoCodec
from mvtrack.backbone.text_encoder import encoder_id
from mvtrack.config import ModelConfig
from mvtrack.data.latents import Encoders
from mvtrack.weights.fingerprint import fingerprint
from mvtrack.weights.sources import resolve


def run_encoders(config: ModelConfig, codec: VideoCodec) -> Encoders:
    """Of a model and its codec, which is fitted or loaded. Raises ValueError for weights that are not there."""
    text = encoder_id(config.text) if config.dit.text_dim and config.text else None
    image = None
    if config.dit.image_dim and config.image:
        image = _short(fingerprint(resolve(config.image.weights, "image")))
    return Encoders(codec_id(codec), text, image)


def codec_id(codec: VideoCodec) -> str:
    """Of a codec's numbers and how it uses them."""
    config = codec.config
    if config.kind == "wan_vae":
        weights = fingerprint(resolve(config.weights, "vae"))
        return _short(f"{weights} {config.tile} {config.tile_stride} {config.precision}")
    digest = hashlib.sha256(f"{config.channels} {config.stride}".encode())
    for name, tensor in sorted(codec.state_dict().items()):
        digest.update(name.encode() + tensor.cpu().numpy().tobytes())
    return digest.hexdigest()[:16]


def _short(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def with_sources(
    config: ModelConfig,
    vae: str | None = None,
    text: str | None = None,
    tokenizer: str | None = None,
    image: str | None = None,
) -> ModelConfig:
    """The same model with encoders from other places: files, folders (kept as absolute paths) or hub ids.

    Raises ValueError for an encoder that the model does not have.
    """
    asked = {"vae": vae, "text": text, "tokenizer": tokenizer, "image": image}
    has = {"vae": config.codec.weights, "text": config.text, "tokenizer": config.text, "image": config.image}
    for name, source in asked.items():
        if source is not None and has[name] is None:
            raise ValueError(f"this model takes no --{name}: it has no such encoder")
    vae, text, tokenizer, image = (source and _absolute(source) for source in asked.values())
    codec = replace(config.codec, weights=vae) if vae else config.codec
    if text or tokenizer:
        kept = None if text else config.text.tokenizer  # another encoder brings its own
        words = replace(config.text, weights=text or config.text.weights, tokenizer=tokenizer or kept)
        config = replace(config, text=words)
    return replace(config, codec=codec, image=replace(config.image, weights=image) if image else config.image)


def _absolute(source: str) -> str:
    path = Path(source).expanduser()
    return str(path.resolve()) if path.exists() else source
