"""Aligned decoding by Wan's VAE: views are decoded together, and what one shows the others follow."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from mvtrack.data.clip import TEMPORAL_STRIDE, num_latent_frames, padded_length
from mvtrack.models.decoder.hosted import HostedAligner
from mvtrack.models.decoder.scene import DecoderScene
from mvtrack.models.decoder.wan_tiles import BLOCKS, decode_in_tiles, frames_shown
from mvtrack.models.wan_vae import WanVAECodec


class WanAligner(HostedAligner):
    """Videos are decoded latent frame by latent frame, as the VAE's memory wants it."""

    def __init__(
        self, width: int = 96, points: Sequence[int] = (7, 7, 7, 2), dim: int = 64, sources: int = 1, reach: float = 1.0
    ) -> None:
        super().__init__(width, points, dim, sources, reach)

    def decode(
        self, codec: WanVAECodec, latents: Float[Tensor, "V f c h w"], scene: DecoderScene,
        views: tuple[int, ...] | None = None,
    ) -> Float[Tensor, "V T 3 H W"]:  # fmt: skip
        """Videos in [-1, 1] of all views, latent frame by latent frame; float32. Gradients flow to this module.

        scene: of the whole video, on the latents' device as this module is. views: those that follow others; None: all.
        A codec with tiles decodes in tiles, of which each asks whole views. Raises ValueError for a VAE of another
        width, a scene of another size, and in tiles for views that ask each other.
        """
        if codec.config.tile:
            self._check(codec, latents, scene)
            return decode_in_tiles(self, codec, latents, scene, tuple(range(len(latents))) if views is None else views)
        return self._decode(codec, latents, scene, views, None).clamp(-1, 1)

    def forward(
        self, codec: WanVAECodec, latents: Float[Tensor, "V f c h w"], scene: DecoderScene, views: tuple[int, ...],
        count: int, generator: torch.Generator,
    ) -> tuple[list[int], Float[Tensor, "V N 3 H W"]]:  # fmt: skip
        """A training step's share of a clip, not clamped: its first frames, `count` or up to three more, and their
        numbers. The VAE remembers, so a clip is decoded from its beginning."""
        latent_frames = min(num_latent_frames(padded_length(count)), latents.shape[1])
        frames = list(range((latent_frames - 1) * TEMPORAL_STRIDE + 1))
        part = scene.moments(slice(0, len(frames)))
        return frames, self._decode(codec, latents[:, :latent_frames], part, views, generator)

    def _decode(
        self, codec: WanVAECodec, latents: Tensor, scene: DecoderScene, views: tuple[int, ...] | None,
        jitter: torch.Generator | None,
    ) -> Float[Tensor, "V T 3 H W"]:  # fmt: skip
        self._check(codec, latents, scene)
        step, pieces = codec.decoder(), []
        with self.in_place_of(codec.network(latents.device)) as network:
            for latent_frame in range(latents.shape[1]):
                with self._attached(network, latent_frame, scene, views, jitter):
                    pieces.append(step(latents[:, latent_frame]))
        return torch.cat(pieces, 1)

    def blocks_of(self, decoder: nn.Module) -> list[nn.Module]:
        return [*decoder.middle, *decoder.upsamples]

    def forgetting(self, block: nn.Module) -> Callable:
        """Also of a block that takes the VAE's memory, all layers', and the place of its own in it."""
        forward, layers = block.forward, sum(isinstance(x, nn.Conv3d) for x in block.modules())

        def run(x: Tensor, memory: list | None = None, place: list[int] | None = None):
            if memory is None:
                return checkpoint(forward, x, use_reentrant=False, preserve_rng_state=False)

            def piece(x: Tensor, *own: Tensor | str | None) -> tuple[Tensor, list, list[int]]:
                return forward(x, list(own), [0])  # changes both lists

            at = slice(place[0], place[0] + layers)
            x, memory[at], used = checkpoint(piece, x, *memory[at], use_reentrant=False, preserve_rng_state=False)
            place[0] += used[0]
            return x, memory, place

        return run

    def _check(self, codec: WanVAECodec, latents: Float[Tensor, "V f c h w"], scene: DecoderScene) -> None:
        views, latent_frames, _, *cells = latents.shape
        blocks = codec.network(latents.device).decoder.upsamples
        frames = (latent_frames - 1) * TEMPORAL_STRIDE + 1
        channels = tuple(blocks[i].out_dim for i in BLOCKS)
        self.check_fit(channels, scene, (views, frames, *(n * codec.stride for n in cells)))

    @contextmanager
    def _attached(
        self, network: nn.Module, latent_frame: int, scene: DecoderScene, views: tuple[int, ...] | None,
        jitter: torch.Generator | None,
    ) -> Iterator[None]:  # fmt: skip
        """The network decodes this latent frame with the attention in it."""
        with ExitStack() as hooks:
            for level, block in enumerate(BLOCKS):
                hook = self._hook(level, frames_shown(level, latent_frame), scene, views, jitter)
                hooks.enter_context(network.decoder.upsamples[block].register_forward_hook(hook))
            yield

    def _hook(
        self, level: int, frames: list[int], scene: DecoderScene, views: tuple[int, ...] | None,
        jitter: torch.Generator | None,
    ) -> Callable[..., tuple]:  # fmt: skip
        """Takes what a residual block returns, its features first, and aligns these."""
        attention = self.levels[level]

        def hook(module: nn.Module, inputs: tuple, output: tuple) -> tuple:
            features, *memory = output
            own = rearrange(features, "v c t h w -> v t c h w").to(attention.out.weight.dtype)
            aligned = attention(own, scene.at(frames, tuple(own.shape[-2:])), views, jitter)
            return rearrange(aligned, "v t c h w -> v c t h w").to(features.dtype), *memory

        return hook
