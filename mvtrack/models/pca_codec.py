"""Video to latents and back. A codec is a module with `encode`, `decode`, `channels` and `stride`.

`PCACodec` is the tiny models' codec: principal components of space-time patches, exact to invert up to the dropped
components, with nothing to train.
"""

from typing import Protocol, runtime_checkable

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from mvtrack.config.encoders import CodecConfig
from mvtrack.data.clip import TEMPORAL_STRIDE, num_latent_frames


@runtime_checkable
class VideoCodec(Protocol):
    """What the rest of the project needs from a codec. Latents are scaled to about unit variance."""

    config: CodecConfig
    channels: int
    stride: int

    def encode(self, video: Float[Tensor, "B V T 3 H W"]) -> Float[Tensor, "B V f c h w"]: ...

    def decode(self, latents: Float[Tensor, "B V f c h w"]) -> Float[Tensor, "B V T 3 H W"]: ...


class PCACodec(nn.Module):
    """Linear codec on stride x stride x 4-frame patches; the first frame is repeated four times, as in Wan's VAE.

    Latents are the leading principal components divided by sd^whitening and by their overall root mean square.
    Decoding averages nothing: frames 1 .. 4 of a latent come from their own rows, frame 0 from the mean of its four.
    """

    def __init__(self, config: CodecConfig) -> None:
        super().__init__()
        self.config, self.channels, self.stride = config, config.channels, config.stride
        values = 3 * TEMPORAL_STRIDE * config.stride**2
        if config.channels > values:
            raise ValueError(f"codec.channels {config.channels} exceeds the {values} values of a patch")
        self.register_buffer("mean", torch.zeros(values))
        self.register_buffer("basis", torch.zeros(values, config.channels))
        self.register_buffer("scale", torch.ones(config.channels))

    def encode(self, video: Float[Tensor, "B V T 3 H W"]) -> Float[Tensor, "B V f c h w"]:
        patches = self._patches(video)
        latents = (patches - self.mean) @ self.basis / self.scale
        return rearrange(latents, "b v f h w c -> b v f c h w")

    def decode(self, latents: Float[Tensor, "B V f c h w"]) -> Float[Tensor, "B V T 3 H W"]:
        patches = (rearrange(latents, "b v f c h w -> b v f h w c") * self.scale) @ self.basis.T + self.mean
        pattern = "b v f h w (k c p q) -> b v f k c (h p) (w q)"
        frames = rearrange(patches, pattern, k=TEMPORAL_STRIDE, c=3, p=self.stride)
        first = frames[:, :, :1].mean(3)
        return torch.cat([first, frames[:, :, 1:].flatten(2, 3)], 2)

    def _patches(self, video: Float[Tensor, "B V T 3 H W"]) -> Float[Tensor, "B V f h w p"]:
        height, width = video.shape[-2:]
        if height % self.stride or width % self.stride:
            raise ValueError(f"video size {height}x{width} is not divisible by the codec's stride {self.stride}")
        latent_frames = num_latent_frames(video.shape[2])
        first = video[:, :, :1].expand(-1, -1, TEMPORAL_STRIDE - 1, -1, -1, -1)
        video = torch.cat([first, video], 2)
        pattern = "b v (f k) c (h p) (w q) -> b v f h w (k c p q)"
        return rearrange(video, pattern, f=latent_frames, p=self.stride, q=self.stride)

    @torch.no_grad()
    def fit(self, videos: list[Float[Tensor, "V T 3 H W"]], whitening: float) -> None:
        """Set the codec from example videos in [-1, 1] (float64 covariance; needs no iteration)."""
        total, outer, count = 0.0, 0.0, 0
        for video in videos:
            patches = self._patches(video[None]).flatten(0, -2).double()
            total = total + patches.sum(0)
            outer = outer + patches.T @ patches
            count += len(patches)
        mean = total / count
        values, vectors = torch.linalg.eigh(outer / count - torch.outer(mean, mean))
        values, vectors = values.flip(0)[: self.channels], vectors.flip(1)[:, : self.channels]
        # a fixed sign, so that the same videos give the same codec with any LAPACK
        vectors = vectors * vectors.gather(0, vectors.abs().argmax(0, keepdim=True)).sign()
        deviation = values.clamp_min(1e-8).sqrt()
        scaled = deviation / deviation**whitening
        self.mean.copy_(mean)
        self.basis.copy_(vectors)
        self.scale.copy_(deviation**whitening * scaled.square().mean().sqrt())


def build_codec(config: CodecConfig) -> VideoCodec:
    """The codec a config asks for, not yet fitted or loaded."""
    if config.kind == "wan_vae":
        from mvtrack.models.wan_vae import WanVAECodec

        return WanVAECodec(config)
    if config.kind != "pca":
        from mvtrack.models.sd_vae import SDVAECodec, SVDVAECodec

        return SDVAECodec(config) if config.kind == "sd_vae" else SVDVAECodec(config)
    return PCACodec(config)
