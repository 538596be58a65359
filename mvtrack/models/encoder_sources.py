"""A model with encoders from other places than its own file says."""

from dataclasses import replace

from mvtrack.config.model import ModelConfig
from mvtrack.config.placement import EncoderSources


def with_sources(config: ModelConfig, sources: EncoderSources) -> ModelConfig:
    """The same model with encoders from other places.

    Raises ValueError for an encoder that the model does not have.
    """
    has = {"vae": config.codec.weights, "text": config.text, "tokenizer": config.text, "image": config.image}
    for name in sources.given:
        if has[name] is None:
            raise ValueError(f"this model takes no --{name}: it has no such encoder")
    found = EncoderSources(**sources.given)
    codec = replace(config.codec, weights=found.vae) if found.vae else config.codec
    image = replace(config.image, weights=found.image) if found.image else config.image
    words = config.text
    if found.text or found.tokenizer:
        kept = None if found.text else words.tokenizer  # another encoder brings its own
        words = replace(words, weights=found.text or words.weights, tokenizer=found.tokenizer or kept)
    return replace(config, codec=codec, text=words, image=image)
