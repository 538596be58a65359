"""Stable Diffusion's VAE as a codec of still views: diffusers' `AutoencoderKL`, picture by picture."""

import json
from pathlib import Path

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from mvtrack.models.codec_weights import ReleasedCodec
from mvtrack.models.diffusers_parts import diffusers_class
from mvtrack.models.weights.checkpoint import open_checkpoint
from mvtrack.models.weights.loading import load_into
from mvtrack.models.weights.sources import resolve

SD_SCALING, SDXL_SCALING = 0.18215, 0.13025
_OLD_NAMES = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}  # of files before 2023
_SIZES = {  # of Stable Diffusion's and SDXL's, for weights without a config
    "block_out_channels": (128, 256, 512, 512), "layers_per_block": 2, "latent_channels": 4,
    "down_block_types": ("DownEncoderBlock2D",) * 4, "up_block_types": ("UpDecoderBlock2D",) * 4,
}  # fmt: skip


class SDVAECodec(ReleasedCodec):
    """Latents times the config's `scaling`. A view is one picture; T and f are 1. Decoded pictures lie in [-1, 1]."""

    def read_network(self) -> nn.Module:
        return load_autoencoder(resolve(self.config.weights, "vae"), self.config.scaling, self.dtype)

    @torch.no_grad()
    def encode(
        self, video: Float[Tensor, "B V T 3 H W"], generator: torch.Generator | None = None
    ) -> Float[Tensor, "B V f c h w"]:
        """generator: the posterior is sampled with it, as CAMEO trains; None: its mean. Raises ValueError for more
        frames than one."""
        if video.shape[2] != 1:
            raise ValueError(f"sd_vae encodes still views of one frame each, got {video.shape[2]} frames")
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
                f"latents of sd_vae have 1 frame and {self.channels} channels, got {latents.shape[2]} and "
                f"{latents.shape[3]}"
            )
        decode = self.network(latents.device).decode
        pictures = [decode(x[None]).sample for x in (latents.flatten(0, 2) / self.config.scaling).to(self.dtype)]
        pictures = torch.cat(pictures).float().clamp_(-1, 1)
        return rearrange(pictures, "(b v) c h w -> b v 1 c h w", b=len(latents))


def load_autoencoder(path: Path, scaling: float, dtype: torch.dtype) -> nn.Module:
    """diffusers' network with the weights of a file, its sizes from the config.json beside it where there is one.

    Raises ValueError for a config of another network or scaling, and for weights that do not fit it.
    """
    described = path.parent / "config.json"
    config = json.loads(described.read_text()) if described.is_file() else _SIZES
    if config.get("_class_name", "AutoencoderKL") != "AutoencoderKL":
        raise ValueError(f"{described} is of a {config['_class_name']}: sd_vae needs an AutoencoderKL")
    if abs(config.get("scaling_factor", scaling) - scaling) > 1e-6:
        raise ValueError(f"{described} scales latents by {config['scaling_factor']}, codec.scaling is {scaling:g}")
    with torch.device("meta"):
        network = empty_autoencoder({key: value for key, value in config.items() if not key.startswith("_")})
    load_into(network, open_checkpoint(path).renamed(_new_name), dtype=dtype)
    return network.eval().requires_grad_(False)


def empty_autoencoder(sizes: dict = _SIZES) -> nn.Module:
    """diffusers' network, by default of Stable Diffusion's size."""
    return diffusers_class("AutoencoderKL").from_config(sizes)


def _new_name(name: str) -> str:
    *parts, kind = name.split(".")
    if "attentions" in parts and parts[-1] in _OLD_NAMES:
        parts[-1] = _OLD_NAMES[parts[-1]]
    return ".".join((*parts, kind))


def _drawn(posterior, generator: torch.Generator) -> Tensor:
    """A sample, with noise from the CPU: the same on every device."""
    noise = torch.randn(posterior.mean.shape, generator=generator)
    return posterior.mean + posterior.std * noise.to(posterior.mean)
