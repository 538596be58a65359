"""Where a model's encoders are found, when not where its own file says."""

from dataclasses import asdict, dataclass, replace
from pathlib import Path

from mvtrack.config.schema import ModelConfig


@dataclass(frozen=True)
class EncoderSources:
    """Files, folders or hub ids. None: where the model's file says; for a tokenizer beside another `text`: with it."""

    vae: str | None = None
    text: str | None = None
    tokenizer: str | None = None
    image: str | None = None

    @property
    def given(self) -> dict[str, str]:
        """Those that are not None, by name; paths that exist are absolute."""
        return {name: _absolute(source) for name, source in asdict(self).items() if source is not None}


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


def _absolute(source: str) -> str:
    path = Path(source).expanduser()
    return str(path.resolve()) if path.exists() else source
