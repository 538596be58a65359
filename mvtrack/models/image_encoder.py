"""A picture to CLIP's image tokens, for transformers with an image branch (ReDirector's base): DiffSynth's network."""

import hashlib
import math
from collections.abc import Iterable
from pathlib import Path

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from mvtrack.files.cache import cache_folder
from mvtrack.models.diffsynth_parts import diffsynth_module
from mvtrack.models.feature_cache import read_features, write_features
from mvtrack.models.weights.checkpoint import Checkpoint
from mvtrack.models.weights.fingerprint import fingerprint
from mvtrack.models.weights.loading import load_into
from mvtrack.models.weights.sources import open_part, resolve

# Of the pictures that CLIP was trained on (Radford et al. 2021).
PIXEL_MEAN, PIXEL_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
HEAD_WIDTH = 80  # of ViT-H/14; the shapes do not tell
PREFIX = "visual."


def embed_images(
    images: Float[Tensor, "B 3 H W"], source: str | Path, device: torch.device | str = "cpu",
    head_width: int = HEAD_WIDTH, cache: Path | None = None,
) -> Float[Tensor, "B M c"]:  # fmt: skip
    """Image tokens (257 of 1280 values for ViT-H/14) of RGB pictures in [-1, 1], float32.

    The features before the last layer, as Wan's image-conditioned models take them. source: the encoder's weights; they
    are read, used and freed, if a picture's tokens are not in the cache. cache: folder, default `cache_folder()`.
    Raises ValueError when weights or DiffSynth are missing.
    """
    files = remember_images(images, source, device, head_width, cache)
    return torch.stack([read_features(file) for file in files])


@torch.no_grad()
def remember_images(
    images: Iterable[Float[Tensor, "3 H W"]], source: str | Path, device: torch.device | str = "cpu",
    head_width: int = HEAD_WIDTH, cache: Path | None = None,
) -> list[Path]:  # fmt: skip
    """Have the tokens of pictures in the cache, in a file each; the encoder is read once at most, for the first that is
    not there yet."""
    weights = fingerprint(resolve(source, "image"))
    folder = (cache or cache_folder() / "image") / hashlib.sha256(f"{weights} {head_width}".encode()).hexdigest()[:16]
    encoder, files = None, []
    for image in images:
        values = image.float().cpu().contiguous()
        digest = hashlib.sha256(f"{tuple(values.shape)}".encode() + values.numpy().tobytes()).hexdigest()
        files.append(folder / f"{digest}.safetensors")
        if read_features(files[-1]) is None:
            if encoder is None:
                encoder = load_encoder(open_part(source, "image"), torch.float32, head_width).to(device)
            write_features(files[-1], encode(encoder, values[None].to(device))[0].cpu())
    del encoder
    if torch.device(device).type == "cuda":
        torch.cuda.empty_cache()
    return files


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
