"""What a model is told beside video and cameras: features of a caption, and image tokens of the first frame."""

from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from mvtrack.backbone.image_encoder import embed_images
from mvtrack.backbone.text_encoder import NEGATIVE_PROMPT, embed_captions
from mvtrack.config import ModelConfig


@dataclass(frozen=True)
class Prompts:
    """Arguments of `generate` by the same names. None: the model has no such branch, or guidance is off."""

    text: Float[Tensor, "L t"] | None = None
    negative_text: Float[Tensor, "L t"] | None = None
    image: Float[Tensor, "M c"] | None = None


def make_prompts(
    config: ModelConfig,
    first_frame: Float[Tensor, "3 H W"],
    caption: str | None = None,
    negative: str | None = None,
    guidance: float = 1.0,
    device: torch.device | str = "cpu",
    cache: Path | None = None,
) -> Prompts:
    """Prompts for one video. The encoders are read where the config names them, used, and freed.

    first_frame: of the reference, in [-1, 1]. caption: None is the empty caption. negative: what guidance steers away
    from; None is Wan's own list, and nothing is encoded where guidance is 1. device: where the encoders run. cache:
    folder of features, see `embed_captions`. Raises ValueError when the model cannot use what is given, or an encoder
    is missing.
    """
    dit = config.dit
    if not dit.text_dim:
        if caption or negative or guidance != 1:
            raise ValueError(
                "this model takes no captions (dit.text_dim is 0): leave out caption, negative and guidance"
            )
        return Prompts(image=_image(config, first_frame, device))
    if config.text is None:
        raise ValueError(
            "the model's config names no text encoder: set model.text, such as {weights: FOLDER or hub id}"
        )
    captions = [caption] if guidance == 1 else [caption, NEGATIVE_PROMPT if negative is None else negative]
    features = embed_captions(captions, config.text, cache, device)
    if features.shape[-1] != dit.text_dim:
        raise ValueError(
            f"{config.text.weights} gives {features.shape[-1]} values a token, dit.text_dim is {dit.text_dim}"
        )
    return Prompts(features[0], None if guidance == 1 else features[1], _image(config, first_frame, device))


def _image(
    config: ModelConfig, first_frame: Float[Tensor, "3 H W"], device: torch.device | str
) -> Float[Tensor, "M c"] | None:
    if not config.dit.image_dim:
        return None
    if config.image is None:
        raise ValueError(
            "the model's config names no image encoder: set model.image, such as {weights: FOLDER or hub id}"
        )
    tokens = embed_images(first_frame[None], config.image.weights, device)[0]
    if tokens.shape[-1] != config.dit.image_dim:
        given = f"{config.image.weights} gives {tokens.shape[-1]} values a token"
        raise ValueError(f"{given}, dit.image_dim is {config.dit.image_dim}")
    return tokens
