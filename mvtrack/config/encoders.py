"""Settings of what stands around the transformer: the video codec, the text encoder, the image encoder."""

from typing import Literal

from mvtrack.config.checked import Count, NonNegative, config

WAN_REPOSITORY = "Wan-AI/Wan2.1-T2V-1.3B"  # its VAE and text encoder serve all Wan2.1 models
FUN_REPOSITORY = "alibaba-pai/Wan2.1-Fun-V1.1-1.3B-Control-Camera"  # ReDirector's base; it holds the image encoder


@config
class CodecConfig:
    """Video to latents. `pca`: a linear codec on space-time patches for tiny models; fitted, not trained.

    `wan_vae`: Wan2.1's VAE. weights: a file, folder or hub id; they stay there and are not copied into model files.
    tile: tuple[Count, Count] | None
    """

    kind: Literal["pca", "wan_vae"] = "pca"
    channels: Count = 32
    stride: Count = 4
    whitening: NonNegative = 0.5  # latents are divided by sd^whitening: 0 keeps PCA's scale, 1 whitens
    weights: str | None = None
    tile: tuple[int, int] | None = None
    tile_stride: tuple[Count, Count] | None = None  # null: half a tile
    precision: Literal["float32", "bfloat16"] = "float32"

    def __post_init__(self) -> None:
        if self.kind == "pca" and (self.weights or self.tile or self.tile_stride or self.precision != "float32"):
            raise ValueError("codec.weights, tile, tile_stride and precision are for codec.kind: wan_vae")
        if self.kind == "wan_vae" and (self.channels, self.stride) != (16, 8):
            raise ValueError(f"wan_vae has codec.channels 16 and codec.stride 8, got {self.channels} and {self.stride}")
        if self.kind == "wan_vae" and not self.weights:
            raise ValueError(f"codec.kind wan_vae needs codec.weights: a file, a folder or {WAN_REPOSITORY}")
        if self.tile_stride and not self.tile:
            raise ValueError("codec.tile_stride needs codec.tile")
        if self.tile and not all(0 < s <= t for t, s in zip(self.tile, self.tile_stride or (1, 1), strict=True)):
            raise ValueError(f"codec.tile_stride {self.tile_stride} must lie in [1, codec.tile], {self.tile}")


@config
class TextConfig:
    """umT5, which turns captions into text features. weights, tokenizer: a file, folder or hub id.

    length: tokens of a caption; longer ones are cut, shorter ones padded with zeros.
    """

    weights: str = WAN_REPOSITORY
    tokenizer: str | None = None  # null: it lies with the weights
    length: Count = 512
    precision: Literal["float32", "bfloat16"] = "bfloat16"


@config
class ImageConfig:
    """CLIP's vision transformer, which turns the reference's first frame into image tokens."""

    weights: str = FUN_REPOSITORY  # a file, folder or hub id
