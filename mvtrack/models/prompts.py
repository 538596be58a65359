"""What a model is told beside video and cameras: features of a caption, and image tokens of the first frame."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from mvtrack.config.model import ModelConfig
from mvtrack.models.image_encoder import embed_images, remember_images
from mvtrack.models.text_encoder import NEGATIVE_PROMPT, embed_captions


@dataclass(frozen=True)
class Prompts:
    """Features of the caption, of what guidance steers away from, and CLIP's tokens of the reference's first frame.

    None: the model has no such branch, or guidance is off.
    """

    text: Float[Tensor, "L t"] | None = None
    negative_text: Float[Tensor, "L t"] | None = None
    image: Float[Tensor, "M c"] | None = None


def make_prompts(
    config: ModelConfig,
    first_frame: Float[Tensor, "3 H W"] | None,
    caption: str | None = None,
    negative: str | None = None,
    guidance: float = 1.0,
    device: torch.device | str = "cpu",
    cache: Path | None = None,
) -> Prompts:
    """Prompts for one video. The encoders are read where the config names them, used, and freed.

    first_frame: of the reference, in [-1, 1]; read by models with an image branch only. caption: None is the empty
    caption. negative: what guidance steers away from; None is Wan's own list, and nothing is encoded where guidance is
    1. device: where the encoders run. cache: folder of features, see `embed_captions`. Raises ValueError when the model
    cannot use what is given, or an encoder is missing.
    """
    frames = None if first_frame is None else first_frame[None]
    return window_prompts(config, frames, caption, negative, guidance, device, cache)[0]


def window_prompts(
    config: ModelConfig,
    first_frames: Float[Tensor, "n 3 H W"] | None,
    caption: str | None = None,
    negative: str | None = None,
    guidance: float = 1.0,
    device: torch.device | str = "cpu",
    cache: Path | None = None,
) -> list[Prompts]:
    """The same for the windows of a long video, each with its own first frame; one for all where no frame is given."""
    text, negative_text = _text(config, caption, negative, guidance, device, cache)
    images = _images(config, first_frames, device) if config.dit.image_dim else [None] * _count(first_frames)
    return [Prompts(text, negative_text, image) for image in images]


def _count(first_frames: Tensor | None) -> int:
    return 1 if first_frames is None else len(first_frames)


def remember_prompts(
    config: ModelConfig,
    captions: Sequence[str | None],
    first_frames: Iterable[Float[Tensor, "3 H W"]],
    device: torch.device | str,
) -> None:
    """Have the features of captions and of windows' first frames in the cache, so that each encoder is read once and
    gone before the transformer comes. Frames are not touched where the model has no image branch."""
    if config.text is not None and config.dit.text_dim:
        embed_captions(captions, config.text, device=device)
    if config.image is not None and config.dit.image_dim:
        remember_images(first_frames, config.image.weights, device)


def captions_to_embed(caption: str | None, negative: str | None, guidance: float) -> list[str | None]:
    """The captions whose features a video needs: its own, and with guidance what to steer away from."""
    return [caption] if guidance == 1 else [caption, NEGATIVE_PROMPT if negative is None else negative]


def _text(
    config: ModelConfig,
    caption: str | None,
    negative: str | None,
    guidance: float,
    device: torch.device | str,
    cache: Path | None,
) -> tuple[Tensor | None, Tensor | None]:
    if not config.dit.text_dim:
        if caption or negative or guidance != 1:
            raise ValueError(
                "this model takes no captions (dit.text_dim is 0): leave out caption, negative and guidance"
            )
        return None, None
    if negative is not None and guidance == 1:
        raise ValueError("a negative prompt is for guidance: set guidance above 1, or leave it out")
    if config.text is None:
        raise ValueError(
            "the model's config names no text encoder: set model.text, such as {weights: FOLDER or hub id}"
        )
    features = embed_captions(captions_to_embed(caption, negative, guidance), config.text, cache, device)
    if features.shape[-1] != config.dit.text_dim:
        raise ValueError(
            f"{config.text.weights} gives {features.shape[-1]} values a token, dit.text_dim is {config.dit.text_dim}"
        )
    return features[0], None if guidance == 1 else features[1]


def _images(
    config: ModelConfig, first_frames: Float[Tensor, "n 3 H W"] | None, device: torch.device | str
) -> Float[Tensor, "n M c"]:
    if config.image is None:
        raise ValueError(
            "the model's config names no image encoder: set model.image, such as {weights: FOLDER or hub id}"
        )
    if first_frames is None:
        raise ValueError("this model has an image branch: it needs the reference's first frame, or prompts made of it")
    tokens = embed_images(first_frames, config.image.weights, device)
    if tokens.shape[-1] != config.dit.image_dim:
        given = f"{config.image.weights} gives {tokens.shape[-1]} values a token"
        raise ValueError(f"{given}, dit.image_dim is {config.dit.image_dim}")
    return tokens
