"""Aligned decoding by Wan's VAE in tiles: a tile of a view asks whole other views.

Views that are asked are decoded first, tile by tile, and what every level would show of them is put together and kept
beside the device; norms are of a tile there, not of the picture, so that results differ a little from those without
tiles.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, NamedTuple

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from mvtrack.data.clip import TEMPORAL_STRIDE
from mvtrack.models.decoder.epipolar_attention import EpipolarAttention
from mvtrack.models.decoder.scene import DecoderScene
from mvtrack.models.tiling import Canvas, Tile, half, tiles
from mvtrack.models.wan_vae import WanVAECodec

if TYPE_CHECKING:
    from mvtrack.models.decoder.wan import WanAligner

BLOCKS = (2, 6, 10, 14)  # of the decoder's `upsamples`: the last residual block of each level
FRAMES = (1, 2, 4, 4)  # of a level, in every latent frame but the first


class _Place(NamedTuple):
    """Of a level's features while a tile is decoded. frames: that they show; first: the first's number in the level."""

    level: int
    frames: list[int]
    first: int
    tile: Tile
    scene: DecoderScene

    @property
    def here(self) -> DecoderScene:
        """The tile's part of the scene."""
        scale = 2**self.level
        size = (self.tile.bottom - self.tile.top) * scale, (self.tile.right - self.tile.left) * scale
        return self.scene.cropped(self.tile.left * scale, self.tile.top * scale, size)


Change = Callable[[EpipolarAttention, _Place, Tensor], Tensor | None]  # features of a view (t, C, h, w), by a level


@torch.no_grad()
def decode_in_tiles(
    aligner: "WanAligner", codec: WanVAECodec, latents: Float[Tensor, "V f c h w"], scene: DecoderScene,
    asking: tuple[int, ...],
) -> Float[Tensor, "V T 3 H W"]:  # fmt: skip
    """Videos of all views in [-1, 1]; float32. Raises ValueError where a view is asked that itself asks."""
    sources = {view: scene.nearest(view)[: aligner.settings["sources"]] for view in asking}
    needed = {source for asked in sources.values() for source in asked}
    if needed & set(asking):
        raise ValueError("in tiles a view is aligned with views that are not: leave out --tiled (codec.tile)")
    kept, videos = {}, {}
    for view in range(len(latents)):
        if view in asking:
            continue
        canvases = _token_canvases(aligner, codec, latents[view]) if view in needed else []

        def keep(attention: EpipolarAttention, place: _Place, own: Tensor, view=view, canvases=canvases) -> None:
            if canvases:
                tokens = attention.tokens(own, place.here.pixels[view].to(own))
                canvases[place.level].add(place.tile, place.first, tokens.to("cpu", codec.dtype))

        videos[view] = _decoded(aligner, codec, latents[view], scene, keep)
        kept[view] = [canvas.finished() for canvas in canvases]
    for view in asking:

        def ask(attention: EpipolarAttention, place: _Place, own: Tensor, view=view) -> Tensor:
            span = slice(place.first, place.first + len(place.frames))
            shown = {source: kept[source][place.level][span].to(own) for source in sources[view]}
            return attention.ask(own, shown, place.scene, view, here=place.here)

        videos[view] = _decoded(aligner, codec, latents[view], scene, ask)
    return torch.stack([videos[view] for view in range(len(latents))]).clamp(-1, 1)


def frames_shown(level: int, latent_frame: int) -> list[int]:
    """The video frames that a level's features of one latent frame show: the last of each run that they stand for."""
    if latent_frame == 0:
        return [0]
    run, last = TEMPORAL_STRIDE // FRAMES[level], TEMPORAL_STRIDE * latent_frame
    return list(range(last - TEMPORAL_STRIDE + run, last + 1, run))


def _decoded(
    aligner: "WanAligner", codec: WanVAECodec, latents: Float[Tensor, "f c h w"], scene: DecoderScene, change: Change
) -> Float[Tensor, "T 3 H W"]:
    """One view, tile by tile, each through all its latent frames. change: of each level's features."""
    size, tile_size = tuple(latents.shape[-2:]), codec.config.tile
    stride = codec.config.tile_stride or half(tile_size)
    video = torch.zeros(TEMPORAL_STRIDE * (len(latents) - 1) + 1, 3, *(n * codec.stride for n in size))
    canvas = Canvas(video, size, _overlap(codec))
    for tile in tiles(size, tile_size, stride):
        step, part = codec.decoder(), tile.of(latents)
        with aligner.in_place_of(codec.network(latents.device)) as network:
            for latent_frame in range(len(latents)):
                with _attached(aligner, network, tile, size, latent_frame, scene, change):
                    frames = step(part[latent_frame][None])[0].cpu()
                canvas.add(tile, frames_shown(3, latent_frame)[0], frames)
    return canvas.finished()


@contextmanager
def _attached(
    aligner: "WanAligner", network: nn.Module, tile: Tile, size: tuple[int, int], latent_frame: int,
    scene: DecoderScene, change: Change,
) -> Iterator[None]:  # fmt: skip
    def hook(level: int, attention: EpipolarAttention):
        frames = frames_shown(level, latent_frame)
        first = 0 if latent_frame == 0 else 1 + (latent_frame - 1) * FRAMES[level]

        def changed(module: nn.Module, inputs: tuple, output: tuple) -> tuple:
            features, *memory = output
            whole = scene.at(frames, (size[0] * 2**level, size[1] * 2**level))
            own = rearrange(features, "1 c t h w -> t c h w").to(attention.out.weight.dtype)
            result = change(attention, _Place(level, frames, first, tile, whole), own)
            if result is None:
                return output
            return rearrange(result, "t c h w -> 1 c t h w").to(features.dtype), *memory

        return changed

    with ExitStack() as hooks:
        for level, attention in enumerate(aligner.levels):
            block = network.decoder.upsamples[BLOCKS[level]]
            hooks.enter_context(block.register_forward_hook(hook(level, attention)))
        yield


def _token_canvases(aligner: "WanAligner", codec: WanVAECodec, latents: Float[Tensor, "f c h w"]) -> list[Canvas]:
    """For the tokens of each level, on the CPU, in the codec's precision."""
    size, canvases = tuple(latents.shape[-2:]), []
    for level, count in enumerate(FRAMES):
        shape = (1 + count * (len(latents) - 1), aligner.settings["dim"], *(n * 2**level for n in size))
        canvases.append(Canvas(torch.zeros(shape, dtype=codec.dtype), size, _overlap(codec)))
    return canvases


def _overlap(codec: WanVAECodec) -> tuple[int, int]:
    """Of tiles, in latent cells."""
    stride = codec.config.tile_stride or half(codec.config.tile)
    return codec.config.tile[0] - stride[0], codec.config.tile[1] - stride[1]
