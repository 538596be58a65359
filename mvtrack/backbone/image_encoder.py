"""A picture to CLIP's image tokens, for transformers with an image branch (ReDirector's base): DiffSynth's network."""

import math
from pathlib import Path

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from mvtrack.backbone.diffsynth_parts import diffsynth_module
from mvtrack.weights.checkpoint import Checkpoint
from mvtrack.weights.loading import load_into
from mvtrack.weights.sources import open_part

# Of the pictures that CLIP was trained on (Radford et al. 2021).
PIXEL_MEAN, PIXEL_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
HEAD_WIDTH = 80  # of ViT-H/14; the shapes do not tell
PREFIX = "visual."


@torch.no_grad()
def embed_images(
    images: Float[Tensor, "B 3 H W"],
    source: str | Path,
    device: torch.device | str = "cpu",
    head_width: int = HEAD_WIDTH,
) -> Float[Tensor, "B M c"]:
    """Image tokens (257 of 1280 values for ViT-H/14) of RGB pictures in [-1, 1], float32.

    The features before the last layer, as Wan's image-conditioned models take them. source: the encoder's weights; they
    are read, used and freed. Raises ValueError when weights or DiffSynth are missing.
    """
    encoder = load_encoder(open_part(source, "image"), torch.float32, head_width).to(device)
    return encode(encoder, images.to(device)).cpu()


def load_encoder(checkpoint: Checkpoint, dtype: torch.dtype, head_width: int = HEAD_WIDTH) -> nn.Module:
    """DiffSynth's vision transformer with a checkpoint's weights (official names); sizes are read from the shapes."""
    checkpoint = checkpoint.renamed(lambda name: name.removeprefix(PREFIX))
    shapes = checkpoint.shapes
    dim, _, patch, _ = shapes["patch_embedding.weight"]
    side = math.isqrt(shapes["pos_embedding"][1] - 1)
    module = diffsynth_module("wan_video_image_encoder")
    with torch.device("meta"):
        encoder = module.VisionTransformer(
            image_size=side * patch,
            patch_size=patch,
            dim=dim,
            mlp_ratio=shapes["transformer.0.mlp.0.weight"][0] // dim,
            out_dim=shapes["head"][1],
            num_heads=dim // head_width,
            num_layers=sum(name.endswith(".attn.to_qkv.weight") for name in shapes),
            activation="gelu",
        )
    load_into(encoder, checkpoint, dtype=dtype)
    return encoder.eval().requires_grad_(False)


def encode(encoder: nn.Module, images: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B M c"]:
    """Tokens of pictures in [-1, 1] of any size; they are squeezed to the encoder's square, as its users do."""
    square = F.interpolate(images, (encoder.image_size,) * 2, mode="bicubic", align_corners=False)
    mean, std = (torch.tensor(values, device=images.device)[:, None, None] for values in (PIXEL_MEAN, PIXEL_STD))
    pixels = (square / 2 + 0.5 - mean) / std
    return encoder(pixels.to(encoder.patch_embedding.weight.dtype), use_31_block=True).float()
