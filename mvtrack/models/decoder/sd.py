"""Epipolar attention in the decoders of Stable Diffusion's and Stable Video Diffusion's VAE, for views of still scenes.

The attention follows the last residual block of each of the decoder's four levels, before the level is scaled up (Depth
Guided Decoder §3.2). It is a module of its own, hooked onto the VAE while it decodes, so the VAE's keys do not change.
"""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager

import torch
from jaxtyping import Float
from torch import Tensor, nn

from mvtrack.models.decoder.epipolar_attention import EpipolarAttention, EpipolarConfig
from mvtrack.models.decoder.scene import DecoderScene
from mvtrack.models.sd_vae import SDVAECodec

MULTIPLES = (4, 4, 2, 1)  # of the network's width: a level's channels, the coarsest first


class SDAligner(nn.Module):
    """One epipolar attention a level. As it starts, pictures are those of the codec, up to the rounding of a batch."""

    def __init__(
        self, width: int = 128, points: Sequence[int] = (7, 7, 7, 2), dim: int = 64, sources: int = 5,
        reach: float = 1.0,
    ) -> None:  # fmt: skip
        """width: of the VAE. points: on each ray, by level, the coarsest first. Else see `EpipolarConfig`."""
        super().__init__()
        self.settings = {"width": width, "points": list(points), "dim": dim, "sources": sources, "reach": reach}
        self.channels = tuple(multiple * width for multiple in MULTIPLES)
        self.levels = nn.ModuleList(
            EpipolarAttention(channels, EpipolarConfig(count, dim, sources, reach))
            for channels, count in zip(self.channels, points, strict=True)
        )

    def decode(
        self,
        codec: SDVAECodec,
        latents: Float[Tensor, "V f c h w"],
        scene: DecoderScene,
        views: tuple[int, ...] | None = None,
    ) -> Float[Tensor, "V f 3 H W"]:
        """Pictures in [-1, 1] of all views, moment by moment; float32. Gradients flow to this module.

        scene: of the same moments, on the latents' device as this module is. views: those that follow others; None:
        all. Raises ValueError for a VAE of another width, or a scene of another size.
        """
        return self._decode(codec, latents, scene, list(range(latents.shape[1])), views, None).clamp(-1, 1)

    def forward(
        self,
        codec: SDVAECodec,
        latents: Float[Tensor, "V f c h w"],
        scene: DecoderScene,
        views: tuple[int, ...],
        count: int,
        generator: torch.Generator,
    ) -> tuple[list[int], Float[Tensor, "V N 3 H W"]]:
        """A training step's share of a clip, not clamped: `count` moments drawn at random, and their numbers."""
        moments = sorted(torch.randperm(latents.shape[1], generator=generator)[:count].tolist())
        return moments, self._decode(codec, latents, scene, moments, views, generator)

    def _decode(
        self, codec: SDVAECodec, latents: Tensor, scene: DecoderScene, moments: list[int],
        views: tuple[int, ...] | None, jitter: torch.Generator | None,
    ) -> Float[Tensor, "V N 3 H W"]:  # fmt: skip
        self._check(codec, latents, scene)
        pictures = []
        for moment in moments:
            with self._attached(self._blocks(codec, latents.device), scene, moment, views, jitter):
                pictures.append(codec.decode_together(latents[:, moment]))
        return torch.stack(pictures, 1)

    @staticmethod
    def _blocks(codec: SDVAECodec, device: torch.device) -> list[nn.Module]:
        """The last residual block of each level."""
        return [block.resnets[-1] for block in codec.network(device).decoder.up_blocks]

    def _check(self, codec: SDVAECodec, latents: Float[Tensor, "V f c h w"], scene: DecoderScene) -> None:
        views, moments, _, *cells = latents.shape
        wanted = (views, moments, *(n * codec.stride for n in cells))
        if tuple(scene.depth.shape) != wanted:
            raise ValueError(
                f"the scene of these latents must be (V, N, H, W) = {wanted}, got {tuple(scene.depth.shape)}"
            )
        channels = tuple(codec.network(latents.device).config.block_out_channels[::-1])
        if channels != self.channels:
            raise ValueError(
                f"this aligner is for a VAE of width {self.channels[-1]} with {self.channels} channels at its "
                f"decoder's levels, got one with {channels}"
            )

    @contextmanager
    def _attached(
        self, blocks: list[nn.Module], scene: DecoderScene, moment: int, views: tuple[int, ...] | None,
        jitter: torch.Generator | None,
    ) -> Iterator[None]:  # fmt: skip
        """The blocks hand out features that are aligned."""

        def hook(attention: EpipolarAttention):
            def aligned(module: nn.Module, inputs: tuple, features: Float[Tensor, "V C h w"]) -> Tensor:
                own = features[:, None].to(attention.out.weight.dtype)
                here = scene.at([moment], tuple(features.shape[-2:]))
                return attention(own, here, views, jitter)[:, 0].to(features.dtype)

            return aligned

        with ExitStack() as hooks:
            for attention, block in zip(self.levels, blocks, strict=True):
                hooks.enter_context(block.register_forward_hook(hook(attention)))
            yield
