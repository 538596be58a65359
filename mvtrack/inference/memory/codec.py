"""Memory and work of a codec: its weights, and what encoding and decoding a video take beyond them."""

from dataclasses import dataclass, replace
from functools import lru_cache

import torch
from torch.utils.flop_counter import FlopCounterMode

from mvtrack.config.encoders import CodecConfig
from mvtrack.data.clip import num_latent_frames
from mvtrack.inference.memory.memory_tracker import allocate_fake, fake_tensors
from mvtrack.models.codec_weights import ReleasedCodec
from mvtrack.models.diffsynth_parts import diffsynth_module
from mvtrack.models.pca_codec import VideoCodec, build_codec
from mvtrack.models.sd_vae import empty_autoencoder, sizes_of_width
from mvtrack.models.wan_vae import WanVAECodec

_WAN_WIDTH = 96  # of the released VAE
_FRAMES = 13  # followed; from the third latent frame on, every piece takes what the one before took


@dataclass(frozen=True)
class CodecCost:
    """Bytes of the weights, and beside them; flops: of encoding and decoding a video, encode_flops: of the former."""

    weights: int
    encode: int
    decode: int
    flops: float
    encode_flops: float


@lru_cache(maxsize=64)
def codec_cost(
    config: CodecConfig, size: tuple[int, int], num_frames: int, views: int = 1, on_cpu: bool = False
) -> CodecCost:
    """Of the videos of one scene's views of `size` (H, W), the videos themselves (float32) included. on_cpu: see
    `MemoryCounter`.

    Raises ValueError where the codec is Wan's and DiffSynth, which has its network, is not installed.
    """
    frames, part = min(num_frames, _FRAMES), size
    if config.tile is not None:  # one tile after the other: follow the first
        part = tuple(min(side, cells * config.stride) for side, cells in zip(size, config.tile, strict=True))
        config = replace(config, tile=None, tile_stride=None)
    with fake_tensors(on_cpu) as counter:
        codec = empty_codec(config)
        held = weights_of(codec)
        counter.ignore(held)
        flops = FlopCounterMode(display=False)
        with counter, flops, torch.no_grad():
            codec.encode(torch.empty(1, views, frames, 3, *part))
        encode, counter.peak = counter.peak, counter.live
        encode_flops = flops.get_total_flops()
        cells = tuple(side // config.stride for side in part)
        with counter, flops, torch.no_grad():
            codec.decode(torch.empty(1, views, num_latent_frames(frames), config.channels, *cells))
    rest = 4 * 3 * views * (num_frames * size[0] * size[1] - frames * part[0] * part[1])  # bytes of video not followed
    copies = 1 if isinstance(codec, ReleasedCodec) else 3  # PCA works on whole videos
    weights = sum(x.numel() * x.element_size() for x in held)
    share = num_frames * size[0] * size[1] / (frames * part[0] * part[1])
    total, peak = flops.get_total_flops() * share, counter.peak + (copies + 1) * rest
    return CodecCost(weights, encode + copies * rest, peak, total, encode_flops * share)


def empty_codec(config: CodecConfig, width: int | None = None) -> VideoCodec:
    """A codec whose weights are without storage; call it inside `fake_tensors`. width: of a VAE, None: as released."""
    codec = build_codec(config)
    network = codec
    if isinstance(codec, ReleasedCodec):
        is_wan = isinstance(codec, WanVAECodec)
        if is_wan:
            network = empty_wan_network(codec.channels, width or _WAN_WIDTH)
        else:
            network = empty_autoencoder(config.kind, **({"sizes": sizes_of_width(width)} if width else {}))
        codec.put_in(network)
    allocate_fake(network, getattr(torch, config.precision)).requires_grad_(False)  # as codecs are loaded
    return codec


def weights_of(codec: VideoCodec) -> list[torch.Tensor]:
    """Parameters and buffers of a codec, or of the network that it runs."""
    network = codec.network(torch.device("cpu")) if isinstance(codec, ReleasedCodec) else codec
    return [*network.parameters(), *network.buffers()]


def empty_wan_network(channels: int, width: int = _WAN_WIDTH) -> torch.nn.Module:
    """The VAE's network of a width, as released by default, without storage. Raises ValueError without DiffSynth."""
    module = diffsynth_module("wan_video_vae")
    with torch.device("meta"):
        return module.VideoVAE_(dim=width, z_dim=channels).eval()
