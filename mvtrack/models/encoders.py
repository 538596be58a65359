"""Which encoders a config means: as names that change with their weights and settings, by which a cache is keyed."""

import hashlib

from mvtrack.config.model import ModelConfig
from mvtrack.data.latents import Encoders
from mvtrack.models.pca_codec import VideoCodec
from mvtrack.models.text_encoder import encoder_id
from mvtrack.models.weights.fingerprint import fingerprint
from mvtrack.models.weights.sources import resolve


def run_encoders(config: ModelConfig, codec: VideoCodec) -> Encoders:
    """Of a model and its codec, which is fitted or loaded. Raises ValueError for weights that are not there."""
    text = encoder_id(config.text) if config.text_dim and config.text else None
    image = None
    if config.image_dim and config.image:
        image = _short(fingerprint(resolve(config.image.weights, "image")))
    return Encoders(codec_id(codec), text, image)


def codec_id(codec: VideoCodec) -> str:
    """Of a codec's numbers and how it uses them."""
    config = codec.config
    if config.kind != "pca":
        weights = fingerprint(resolve(config.weights, "vae"))
        scaling = "" if config.scaling is None else f" {config.scaling}"
        return _short(f"{weights} {config.tile} {config.tile_stride} {config.precision}{scaling}")
    digest = hashlib.sha256(f"{config.channels} {config.stride}".encode())
    for name, tensor in sorted(codec.state_dict().items()):
        digest.update(name.encode() + tensor.cpu().numpy().tobytes())
    return digest.hexdigest()[:16]


def _short(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]
