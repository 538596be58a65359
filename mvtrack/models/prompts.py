"""Prompts: features of a caption and of a negative one, and image tokens of the first frame."""

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
class Captions:
    """What to encode. caption: of the video; None is the empty one. negative: what classifier-free guidance steers away
    from; None is Wan's own list. guidance: its scale; 1 is none, and nothing negative is encoded.
    """

    caption: str | None = None
    negative: str | None = None
    guidance: float = 1.0

    @property
    def texts(self) -> list[str | None]:
        """The captions whose features are needed."""
        if self.guidance == 1:
            return [self.caption]
        return [self.caption, NEGATIVE_PROMPT if self.negative is None else self.negative]


@dataclass(frozen=True)
class Prompts:
    """Features of the caption, of what guidance steers away from, and CLIP's tokens of the reference's first frame.

    None: the model has no such branch, or guidance is off. A batch axis may lead.
    """

    text: Float[Tensor, "*B L t"] | None = None
    negative_text: Float[Tensor, "*B L t"] | None = None
    image: Float[Tensor, "*B M c"] | None = None

    def cpu(self) -> "Prompts":
        return Prompts(*(None if x is None else x.cpu() for x in (self.text, self.negative_text, self.image)))


def make_prompts(
    config: ModelConfig, first_frame: Float[Tensor, "3 H W"] | None, captions: Captions = Captions(),
    device: torch.device | str = "cpu", cache: Path | None = None,
) -> Prompts:  # fmt: skip
    """Prompts for one video. The encoders are read where the config names them, used, and freed.

    first_frame: of the reference, in [-1, 1]; read by models with an image branch only. device: where the encoders run.
    cache: folder of features, see `embed_captions`. Raises ValueError when the model has no such branch, or an encoder
    is missing.
    """
    return window_prompts(config, None if first_frame is None else first_frame[None], captions, device, cache)[0]


def window_prompts(
    config: ModelConfig, first_frames: Float[Tensor, "n 3 H W"] | None, captions: Captions = Captions(),
    device: torch.device | str = "cpu", cache: Path | None = None,
) -> list[Prompts]:  # fmt: skip
    """The same for the windows of a long video, each with its own first frame; one for all without frames."""
    text, negative_text = _text(config, captions, device, cache)
    images = _images(config, first_frames, device) if config.image_dim else [None] * _count(first_frames)
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
    if config.text is not None and config.text_dim:
        embed_captions(captions, config.text, device=device)
    if config.image is not None and config.image_dim:
        remember_images(first_frames, config.image.weights, device)


def _text(
    config: ModelConfig, captions: Captions, device: torch.device | str, cache: Path | None
) -> tuple[Tensor | None, Tensor | None]:
    guided = captions.guidance != 1
    if not config.text_dim:
        if captions.caption or captions.negative or guided:
            raise ValueError(
                "this model takes no captions (dit.text_dim is 0): leave out caption, negative and guidance"
            )
        return None, None
    if captions.negative is not None and not guided:
        raise ValueError("a negative prompt is for guidance: set guidance above 1, or leave it out")
    if config.text is None:
        raise ValueError(
            "the model's config names no text encoder: set model.text, such as {weights: FOLDER or hub id}"
        )
    features = embed_captions(captions.texts, config.text, cache, device)
    if features.shape[-1] != config.text_dim:
        raise ValueError(
            f"{config.text.weights} gives {features.shape[-1]} values a token, dit.text_dim is {config.text_dim}"
        )
    return features[0], features[1] if guided else None


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
    if tokens.shape[-1] != config.image_dim:
        given = f"{config.image.weights} gives {tokens.shape[-1]} values a token"
        raise ValueError(f"{given}, dit.image_dim is {config.image_dim}")
    return tokens
