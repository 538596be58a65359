"""Sizes and rays of the backbones over still views: CAT3D on Stable Diffusion 2.1, and Hunyuan-DiT."""

from typing import Annotated, Literal

from mvtrack.config.checked import Count, NonNegativeInt, Range, config

DOMAINS = ("re10k", "co3d", "others")  # what a scene's label says of its data, in the order of the embedding


@config
class ViewRayConfig:
    """Plücker maps [direction, moment] of every pixel of V views.

    frame: cameras relative to one view (`relative`), the same multiplied on the wrong side, as CAMEO and MVGenMaster
    do, so that rays depend on how the world is turned (`peer`), or as they are (`world`). pixel: at the pixel's centre,
    or one pixel to its left (`peer`). origin: to which view; the authors take the last (CAMEO) or the first
    (MVGenMaster). scale: centres are divided by the largest absolute coordinate of the scene's. Weights need what they
    were trained with.

    drop: share of training in which rays are all zero, so that sampling can be guided by the camera. drop_per: drawn
    for every sample, or for a whole batch at once (CAMEO).
    """

    frame: Literal["relative", "peer", "world"] = "relative"
    pixel: Literal["centre", "peer"] = "centre"
    origin: Literal["first", "last"] = "first"
    scale: Literal["largest_coordinate", "none"] = "largest_coordinate"
    drop: Annotated[float, Range(0, 1, high_open=True)] = 0.1
    drop_per: Literal["sample", "batch"] = "sample"


MVGENMASTER_RAYS = ViewRayConfig(frame="peer", pixel="peer", scale="none", drop_per="batch")
CAMEO_RAYS = ViewRayConfig(frame="peer", pixel="peer", origin="last", drop_per="batch")


@config
class UNetConfig:
    """CAT3D's U-Net; the defaults are Stable Diffusion 2.1's sizes.

    num_heads: of each level. rays: see `ViewRayConfig`. logit_heads: layers with a head of the correspondence loss.
    depth_priors: it also sees what the given views' depth carries to every view, as MVGenMaster does.
    """

    block_channels: tuple[Count, ...] = (320, 640, 1280, 1280)
    num_heads: tuple[Count, ...] = (5, 10, 20, 20)
    layers_per_block: Count = 2
    norm_groups: Count = 32
    channels: Count = 4
    rays: ViewRayConfig = ViewRayConfig()
    logit_heads: tuple[NonNegativeInt, ...] = ()
    depth_priors: bool = False

    def __post_init__(self) -> None:
        if len(self.block_channels) < 2 or len(self.num_heads) != len(self.block_channels):
            raise ValueError(
                "block_channels and num_heads must name as many levels, at least 2, got "
                f"{len(self.block_channels)} and {len(self.num_heads)}"
            )
        for width, heads in zip(self.block_channels, self.num_heads, strict=True):
            if width % heads or width % self.norm_groups:
                raise ValueError(f"a width of {width} does not divide into {heads} heads and {self.norm_groups} groups")

    @property
    def num_layers(self) -> int:
        """Layers of self-attention: all levels but the innermost have them, and the middle has one."""
        return (len(self.block_channels) - 1) * (2 * self.layers_per_block + 1) + 1

    @property
    def size_unit(self) -> int:
        """Latents to a side must be a multiple of it."""
        return 2 ** (len(self.block_channels) - 1)

    def token_side(self, layer: int) -> int:
        """Latents to a side of a layer's token."""
        return 2 ** self._level(layer)

    def layer_width(self, layer: int) -> int:
        """Values of a layer's token."""
        return self.block_channels[self._level(layer)]

    def _level(self, layer: int) -> int:
        levels = len(self.block_channels) - 1
        down, up = self.layers_per_block * levels, self.layers_per_block + 1
        if layer == down:
            return levels
        return layer // self.layers_per_block if layer < down else levels - 1 - (layer - down - 1) // up


@config
class HunyuanConfig:
    """Hunyuan-DiT with joint views, by a recipe of ours; the defaults are version 1.2's sizes.

    has_style: version 1.1 and before also take the picture's size and a style. text_lengths, text_dims: of BERT's and
    mT5's tokens, which are padding here. rope_base: tokens to a side of the square that positions are counted in.
    """

    num_layers: Count = 40
    num_heads: Count = 16
    head_dim: Count = 88
    channels: Count = 4
    text_dims: tuple[Count, Count] = (1024, 2048)
    text_lengths: tuple[Count, Count] = (77, 256)
    pooled_dim: Count = 1024
    has_style: bool = False
    rope_base: Count = 32
    rays: ViewRayConfig = ViewRayConfig()
    logit_heads: tuple[NonNegativeInt, ...] = ()

    def __post_init__(self) -> None:
        if self.head_dim % 8:  # halves by axis, pairs in each, and what fused kernels take
            raise ValueError(f"head_dim must be a multiple of 8, got {self.head_dim}")
        if self.text_dims[1] % 8:  # diffusers pools mT5's tokens with eight heads
            raise ValueError(f"text_dims[1] must be a multiple of 8, got {self.text_dims[1]}")
        if self.num_layers % 2:
            raise ValueError(f"num_layers must be even: a block's skip comes from its mirror, got {self.num_layers}")

    @property
    def size_unit(self) -> int:
        """Latents to a side must be a multiple of it."""
        return 2

    def token_side(self, _layer: int) -> int:
        """Latents to a side of a token."""
        return 2

    def layer_width(self, _layer: int) -> int:
        """Values of a token."""
        return self.num_heads * self.head_dim
