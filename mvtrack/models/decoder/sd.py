"""Aligned decoding by Stable Diffusion's and Stable Video Diffusion's VAE, of views of still scenes."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager

import torch
from jaxtyping import Float
from torch import Tensor, nn

from mvtrack.models.decoder.epipolar_attention import EpipolarAttention
from mvtrack.models.decoder.hosted import HostedAligner
from mvtrack.models.decoder.scene import DecoderScene
from mvtrack.models.sd_vae import SDVAECodec

_BLOCKS = ("resnets", "attentions", "upsamplers")  # of a level of the decoder


class SDAligner(HostedAligner):
    """Every moment is decoded for itself."""

    def __init__(
        self, width: int = 128, points: Sequence[int] = (7, 7, 7, 2), dim: int = 64, sources: int = 5,
        reach: float = 1.0,
    ) -> None:  # fmt: skip
        super().__init__(width, points, dim, sources, reach)

    def decode(
        self, codec: SDVAECodec, latents: Float[Tensor, "V f c h w"], scene: DecoderScene,
        views: tuple[int, ...] | None = None,
    ) -> Float[Tensor, "V f 3 H W"]:  # fmt: skip
        """Pictures in [-1, 1] of all views, moment by moment; float32. Gradients flow to this module.

        scene: of the same moments, on the latents' device as this module is. views: those that follow others; None:
        all. Raises ValueError for a VAE of another width, or a scene of another size.
        """
        return self._decode(codec, latents, scene, list(range(latents.shape[1])), views, None).clamp(-1, 1)

    def forward(
        self, codec: SDVAECodec, latents: Float[Tensor, "V f c h w"], scene: DecoderScene, views: tuple[int, ...],
        count: int, generator: torch.Generator,
    ) -> tuple[list[int], Float[Tensor, "V N 3 H W"]]:  # fmt: skip
        """A training step's share of a clip, not clamped: `count` moments drawn at random, and their numbers."""
        moments = sorted(torch.randperm(latents.shape[1], generator=generator)[:count].tolist())
        return moments, self._decode(codec, latents, scene, moments, views, generator)

    def _decode(
        self, codec: SDVAECodec, latents: Tensor, scene: DecoderScene, moments: list[int],
        views: tuple[int, ...] | None, jitter: torch.Generator | None,
    ) -> Float[Tensor, "V N 3 H W"]:  # fmt: skip
        self._check(codec, latents, scene)
        pictures = []
        with self.in_place_of(codec.network(latents.device)) as network:
            for moment in moments:
                with self._attached(network, scene, moment, views, jitter):
                    pictures.append(codec.decode_together(latents[:, moment]))
        return torch.stack(pictures, 1)

    def blocks_of(self, decoder: nn.Module) -> list[nn.Module]:
        parts = [getattr(x, n, None) for x in (decoder.mid_block, *decoder.up_blocks) for n in _BLOCKS]
        return [block for part in parts for block in part or ()]

    def _check(self, codec: SDVAECodec, latents: Float[Tensor, "V f c h w"], scene: DecoderScene) -> None:
        views, moments, _, *cells = latents.shape
        channels = tuple(codec.network(latents.device).config.block_out_channels[::-1])
        self.check_fit(channels, scene, (views, moments, *(n * codec.stride for n in cells)))

    @contextmanager
    def _attached(
        self, network: nn.Module, scene: DecoderScene, moment: int, views: tuple[int, ...] | None,
        jitter: torch.Generator | None,
    ) -> Iterator[None]:  # fmt: skip
        """The last residual block of each level hands out features that are aligned."""

        def hook(attention: EpipolarAttention):
            def aligned(module: nn.Module, inputs: tuple, features: Float[Tensor, "V C h w"]) -> Tensor:
                own = features[:, None].to(attention.out.weight.dtype)
                here = scene.at([moment], tuple(features.shape[-2:]))
                return attention(own, here, views, jitter)[:, 0].to(features.dtype)

            return aligned

        with ExitStack() as hooks:
            for attention, block in zip(self.levels, network.decoder.up_blocks, strict=True):
                hooks.enter_context(block.resnets[-1].register_forward_hook(hook(attention)))
            yield
