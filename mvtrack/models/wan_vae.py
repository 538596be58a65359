"""Wan2.1's VAE as a codec: DiffSynth's network, driven here, four frames at a time.

The network is causal and keeps what it needs of earlier frames, so a video of any length takes the memory of four
frames, and tiles bound that of large pictures. Videos of a batch are coded one by one.
"""

from collections.abc import Callable, Iterable, Iterator
from functools import partial
from itertools import pairwise
from typing import Literal

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from mvtrack.data.clip import TEMPORAL_STRIDE, num_latent_frames
from mvtrack.models.codec_weights import ReleasedCodec
from mvtrack.models.compiling import compiled
from mvtrack.models.diffsynth_parts import diffsynth_module
from mvtrack.models.tiling import Canvas, Tile, half, tiles
from mvtrack.models.weights.checkpoint import Checkpoint
from mvtrack.models.weights.loading import load_into
from mvtrack.models.weights.sources import open_part

# Mean and standard deviation of the latents' channels over Wan's training data: constants of the release.
LATENT_MEAN = (
    -0.7571, -0.7089, -0.9113, 0.1075, -0.1745, 0.9653, -0.1517, 1.5508,
    0.4134, -0.0715, 0.5517, -0.3632, -0.1922, -0.9497, 0.2503, -0.2921,
)  # fmt: skip
LATENT_STD = (
    2.8184, 1.4541, 2.3275, 2.6558, 1.2196, 1.7708, 2.6052, 2.0743,
    3.2687, 2.1526, 2.8652, 1.5579, 1.6382, 1.1253, 2.8251, 1.9160,
)  # fmt: skip

_LAST = torch.channels_last_3d  # the order in which cuDNN's convolutions over time are fast
Half = Literal["encode", "decode"]
Step = Callable[[Tensor], Tensor]  # the next piece of a video, or of videos, to the next piece of the result


class WanVAECodec(ReleasedCodec):
    """Latents are the posterior's mean, normalised by channel; nothing is sampled. Decoded videos lie in [-1, 1];
    results are float32. share: other processes that code tiles too (inference/ranks.py); it gives every tile's frames.

    compiled: norms and what follows them are fused, when the network is read.
    """

    share: Callable[["WanVAECodec", Half, Tensor, list[Tile]], list[Tensor]] | None = None
    compiled: bool = False

    def read_network(self) -> nn.Module:
        network = load_network(open_part(self.config.weights, "vae"), self.dtype)
        if self.compiled:
            fuse_norms(network)
        return network

    def network(self, device: torch.device) -> nn.Module:
        network = super().network(device)
        if device.type == "cuda" and not network.encoder.conv1.weight.is_contiguous(memory_format=_LAST):
            network.to(memory_format=_LAST)
        return network

    @torch.no_grad()
    def encode(self, video: Float[Tensor, "B V T 3 H W"]) -> Float[Tensor, "B V f c h w"]:
        num_latent_frames(video.shape[2])
        self.check_size(video)
        return self._one_by_one(video, self._encode_one)

    @torch.no_grad()
    def decode(self, latents: Float[Tensor, "B V f c h w"]) -> Float[Tensor, "B V T 3 H W"]:
        return self._one_by_one(latents, self._decode_one).clamp_(-1, 1)

    @torch.no_grad()
    def encode_stream(self, frames: Iterable[Float[Tensor, "t 3 H W"]]) -> Iterator[Float[Tensor, "1 c h w"]]:
        """Latent frames of a video that comes in pieces of any length, each as soon as its frames are there.

        Raises ValueError at the end of a video that has not 4n + 1 frames. Whole pictures, no tiles.
        """
        step, first = self._encoder(), True
        held, count = None, 0
        for piece in frames:
            held = piece if held is None else torch.cat([held, piece])
            count += len(piece)
            while len(held) >= (1 if first else TEMPORAL_STRIDE):
                take = 1 if first else TEMPORAL_STRIDE
                yield step(held[:take])
                held, first = held[take:], False
        num_latent_frames(count)

    @torch.no_grad()
    def decode_stream(self, latents: Iterable[Float[Tensor, "f c h w"]]) -> Iterator[Float[Tensor, "t 3 H W"]]:
        """The video of latents that come in pieces of any length: one frame, then four at a time. No tiles."""
        step = self.decoder()
        for piece in latents:
            for latent in piece:
                yield step(latent[None])[0].clamp_(-1, 1)

    def _one_by_one(self, batch: Tensor, code: Callable[[Tensor], Tensor]) -> Tensor:
        return torch.stack([torch.stack([code(video) for video in views]) for views in batch])

    def _encode_one(self, video: Float[Tensor, "T 3 H W"]) -> Float[Tensor, "f c h w"]:
        size = (video.shape[-2] // self.stride, video.shape[-1] // self.stride)
        latents = torch.zeros(num_latent_frames(len(video)), self.channels, *size, device=video.device)
        return self._painted("encode", video, latents, size)

    def _decode_one(self, latents: Float[Tensor, "f c h w"]) -> Float[Tensor, "T 3 H W"]:
        size, frames = tuple(latents.shape[-2:]), _frame_spans(len(latents))[-1][1]
        video = torch.zeros(frames, 3, *(s * self.stride for s in size), device=latents.device)
        return self._painted("decode", latents, video, size)

    def _painted(self, half: Half, given: Tensor, made: Tensor, size: tuple[int, int]) -> Tensor:
        """made: zeros, of latents or of a video, which are put together from what tiles give."""
        canvas, parts = (
            Canvas(made, size, self._overlap(size)),
            [*tiles(size, self.config.tile, self.config.tile_stride)],
        )
        if self.share is not None and len(parts) > 1:
            for tile, frames in zip(parts, self.share(self, half, given, parts), strict=True):
                canvas.add(tile, 0, frames)
            return canvas.finished()
        for tile in parts:
            for place, piece in self.pieces(half, given, tile):
                canvas.add(tile, place, piece)
        return canvas.finished()

    def pieces(self, half: Half, given: Tensor, tile: Tile) -> Iterator[tuple[int, Float[Tensor, "t c h w"]]]:
        """A tile's latents or frames, and the number of the first. given: (T, 3, H, W) to encode, (f, c, h, w) to
        decode; of the whole picture."""
        if half == "encode":
            step, part = self._encoder(), tile.of(given, self.stride)
            for i, (start, stop) in enumerate(_frame_spans(num_latent_frames(len(part)))):
                yield i, step(part[start:stop])
        else:
            step, part = self.decoder(), tile.of(given)
            for i, (start, _) in enumerate(_frame_spans(len(part))):
                yield start, step(part[i : i + 1])[0]

    def tile_shape(self, half: Half, given: Tensor, tile: Tile) -> tuple[int, int, int, int]:
        """Of all that `pieces` gives."""
        rows, columns = tile.bottom - tile.top, tile.right - tile.left
        if half == "encode":
            return num_latent_frames(len(given)), self.channels, rows, columns
        return _frame_spans(len(given))[-1][1], 3, rows * self.stride, columns * self.stride

    def _overlap(self, size: tuple[int, int]) -> tuple[int, int]:
        tile = self.config.tile or size
        stride = self.config.tile_stride or half(tile)
        return tile[0] - stride[0], tile[1] - stride[1]

    def _encoder(self) -> Step:
        """A function that encodes the pieces of one video in order: its first frame, then four at a time."""
        memory: list[Tensor | None] = []

        def step(piece: Tensor) -> Tensor:
            network = self.network(piece.device)
            if not memory:
                memory.extend([None] * _causal_layers(network, network.encoder))
            piece = rearrange(piece, "t c h w -> 1 c t h w").to(self.dtype)
            features, memory[:], _ = network.encoder(piece, feat_cache=list(memory), feat_idx=[0])
            mean = rearrange(network.conv1(features)[:, : self.channels], "1 c t h w -> t c h w").float()
            return (mean - _column(LATENT_MEAN, mean)) / _column(LATENT_STD, mean)

        return step

    def decoder(self) -> Step:
        """A function that decodes videos of one length together: their next latent frames, (V, c, h, w), to the frames
        that these show, (V, t, 3, H, W), not clamped. No tiles; gradients flow."""
        memory: list[Tensor | None] = []

        def step(latent: Float[Tensor, "V c h w"]) -> Float[Tensor, "V t 3 H W"]:
            if latent.shape[1] != self.channels:
                raise ValueError(f"latents of this VAE have {self.channels} channels, got {latent.shape[1]}")
            network = self.network(latent.device)
            if not memory:
                memory.extend([None] * _causal_layers(network, network.decoder))
            latent = latent.float() * _column(LATENT_STD, latent) + _column(LATENT_MEAN, latent)
            features = network.conv2(rearrange(latent, "v c h w -> v c 1 h w").to(self.dtype))
            frames, memory[:], _ = network.decoder(features, feat_cache=list(memory), feat_idx=[0])
            return rearrange(frames, "v c t h w -> v t c h w").float()

        return step


def load_network(checkpoint: Checkpoint, dtype: torch.dtype) -> nn.Module:
    """DiffSynth's VAE module with a checkpoint's weights (official names); its width is read from the shapes."""
    shapes = checkpoint.shapes
    width, channels = shapes["encoder.conv1.weight"][0], shapes["conv2.weight"][0]
    module = diffsynth_module("wan_video_vae")
    with torch.device("meta"):
        network = module.VideoVAE_(dim=width, z_dim=channels)
    load_into(network, checkpoint, dtype=dtype)
    return network.eval().requires_grad_(False)


def fuse_norms(network: nn.Module) -> None:
    """Compile each norm together with the activation after it, which otherwise read and write all features five times.
    Where the compiler fails, they run as they are, with a warning."""
    fused = compiled(_normalised, or_not=True)

    def run(x: Tensor, norm: nn.Module) -> Tensor:
        return fused(x, norm.gamma, norm.scale)

    for layers in network.modules():
        for norm, activation in pairwise(layers) if isinstance(layers, nn.Sequential) else ():
            if type(norm).__name__ == "RMS_norm" and isinstance(activation, nn.SiLU):
                norm.forward = partial(run, norm=norm)
                activation.forward = _same


def _normalised(x: Float[Tensor, "V C t h w"], gamma: Float[Tensor, "C 1 1 1"], scale: float) -> Tensor:
    return F.silu(F.normalize(x, dim=1) * scale * gamma)


def _same(x: Tensor) -> Tensor:
    return x


def _causal_layers(network: nn.Module, part: nn.Module) -> int:
    """Layers that remember frames."""
    return sum(isinstance(layer, type(network.conv1)) for layer in part.modules())


def _frame_spans(latent_frames: int) -> list[tuple[int, int]]:
    """Video frames [start, stop) of every latent frame."""
    return [(max(0, TEMPORAL_STRIDE * (i - 1) + 1), TEMPORAL_STRIDE * i + 1) for i in range(latent_frames)]


def _column(values: tuple[float, ...], like: Tensor) -> Float[Tensor, "c 1 1"]:
    return torch.tensor(values, device=like.device)[:, None, None]
