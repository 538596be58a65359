"""Stable Diffusion's and Stable Video Diffusion's VAE as codecs of still views: diffusers' networks.

Their encoders are one. SD's decoder takes picture by picture; SVD's mixes neighbouring frames, and here the views of
one moment are its frames, so their order counts (Depth Guided Decoder §3.1).
"""

import json
from pathlib import Path
from typing import Literal

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from mvtrack.config.encoders import CodecConfig
from mvtrack.models.codec_weights import ReleasedCodec
from mvtrack.models.diffusers_parts import diffusers_class
from mvtrack.models.weights.checkpoint import open_checkpoint
from mvtrack.models.weights.loading import load_into
from mvtrack.models.weights.sources import resolve

SD_SCALING, SDXL_SCALING = 0.18215, 0.13025
_OLD_NAMES = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}  # of files before 2023
_SIZES = {  # of the released ones, for weights without a config
    "block_out_channels": (128, 256, 512, 512), "layers_per_block": 2, "latent_channels": 4,
    "down_block_types": ("DownEncoderBlock2D",) * 4,
}  # fmt: skip
_NETWORKS = {"sd_vae": "AutoencoderKL", "svd_vae": "AutoencoderKLTemporalDecoder"}


class SDVAECodec(ReleasedCodec):
    """Latents times the config's `scaling`. A view is one picture; T and f are 1. Decoded pictures lie in [-1, 1]."""

    def read_network(self) -> nn.Module:
        return load_autoencoder(resolve(self.config.weights, "vae"), self.config, self.dtype)

    @torch.no_grad()
    def encode(
        self, video: Float[Tensor, "B V T 3 H W"], generator: torch.Generator | None = None
    ) -> Float[Tensor, "B V f c h w"]:
        """generator: the posterior is sampled with it, as CAMEO trains; None: its mean. Raises ValueError for more
        frames than one."""
        if video.shape[2] != 1:
            raise ValueError(f"{self.config.kind} encodes still views of one frame each, got {video.shape[2]} frames")
        self.check_size(video)
        encode = self.network(video.device).encode
        latents = []
        for picture in video.flatten(0, 2).to(self.dtype):
            posterior = encode(picture[None]).latent_dist
            latents.append(posterior.mode() if generator is None else _drawn(posterior, generator))
        latents = self.config.scaling * torch.cat(latents).float()
        return rearrange(latents, "(b v) c h w -> b v 1 c h w", b=len(video))

    @torch.no_grad()
    def decode(self, latents: Float[Tensor, "B V f c h w"]) -> Float[Tensor, "B V T 3 H W"]:
        if latents.shape[3] != self.channels or latents.shape[2] != 1:
            raise ValueError(
                f"latents of {self.config.kind} have 1 frame and {self.channels} channels, got {latents.shape[2]} and "
                f"{latents.shape[3]}"
            )
        return torch.stack([self.decode_one(views[:, 0]).clamp_(-1, 1) for views in latents])[:, :, None]

    def decode_one(self, latents: Float[Tensor, "V c h w"]) -> Float[Tensor, "V 3 H W"]:
        """The pictures of one scene's views, one by one: the memory of one."""
        return torch.cat([self.decode_together(latent[None]) for latent in latents])

    def decode_together(self, latents: Float[Tensor, "V c h w"]) -> Float[Tensor, "V 3 H W"]:
        """The pictures of one scene's views in one batch, not clamped; gradients flow."""
        return self.network(latents.device).decode((latents / self.config.scaling).to(self.dtype)).sample.float()


class SVDVAECodec(SDVAECodec):
    """Pictures are encoded as SD's; the views of a scene are decoded together, as the frames of a video."""

    def decode_one(self, latents: Float[Tensor, "V c h w"]) -> Float[Tensor, "V 3 H W"]:
        return self.decode_together(latents)

    def decode_together(self, latents: Float[Tensor, "V c h w"]) -> Float[Tensor, "V 3 H W"]:
        decode = self.network(latents.device).decode
        return decode((latents / self.config.scaling).to(self.dtype), num_frames=len(latents)).sample.float()


def load_autoencoder(path: Path, codec: CodecConfig, dtype: torch.dtype) -> nn.Module:
    """diffusers' network with the weights of a file, its sizes from the config.json beside it where there is one.

    Raises ValueError for a config of another network or scaling, and for weights that do not fit it.
    """
    described, wanted = path.parent / "config.json", _NETWORKS[codec.kind]
    config = json.loads(described.read_text()) if described.is_file() else _SIZES
    if config.get("_class_name", wanted) != wanted:
        raise ValueError(f"{described} is of a {config['_class_name']}: {codec.kind} needs an {wanted}")
    if abs(config.get("scaling_factor", codec.scaling) - codec.scaling) > 1e-6:
        raise ValueError(
            f"{described} scales latents by {config['scaling_factor']}, codec.scaling is {codec.scaling:g}"
        )
    with torch.device("meta"):
        network = empty_autoencoder(codec.kind, {key: x for key, x in config.items() if not key.startswith("_")})
    load_into(network, open_checkpoint(path).renamed(_new_name), dtype=dtype)
    return network.eval().requires_grad_(False)


def empty_autoencoder(kind: Literal["sd_vae", "svd_vae"] = "sd_vae", sizes: dict = _SIZES) -> nn.Module:
    """diffusers' network, by default of the released size."""
    if kind == "sd_vae":
        sizes = {"up_block_types": ("UpDecoderBlock2D",) * len(sizes["block_out_channels"])} | sizes
    return diffusers_class(_NETWORKS[kind]).from_config(sizes)


def sizes_of_width(width: int) -> dict:
    """Of a VAE like the released ones but for its width, 128 there."""
    return _SIZES | {"block_out_channels": (width, 2 * width, 4 * width, 4 * width)}


def _new_name(name: str) -> str:
    *parts, kind = name.split(".")
    if "attentions" in parts and parts[-1] in _OLD_NAMES:
        parts[-1] = _OLD_NAMES[parts[-1]]
    return ".".join((*parts, kind))


def _drawn(posterior, generator: torch.Generator) -> Tensor:
    """A sample, with noise from the CPU: the same on every device."""
    noise = torch.randn(posterior.mean.shape, generator=generator)
    return posterior.mean + posterior.std * noise.to(posterior.mean)
