"""Memory and work of decoding views a second time, aligned."""

from dataclasses import dataclass, replace
from functools import lru_cache

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from mvtrack.config.encoders import CodecConfig
from mvtrack.data.clip import num_latent_frames
from mvtrack.geometry.camera import Camera
from mvtrack.inference.memory.codec import empty_codec, weights_of
from mvtrack.inference.memory.memory_tracker import allocate_fake, fake_tensors
from mvtrack.models.decoder.depth import PLANES
from mvtrack.models.decoder.files import build_aligner
from mvtrack.models.decoder.scene import DecoderScene
from mvtrack.models.pca_codec import VideoCodec

_FOLLOWED = {"wan_vae": (9, 13)}  # frames; from the third latent frame on, every piece takes what the one before took
_FRAME_BY_FRAME = (1, 5)
_SWEEP_VALUES = 18.5  # at once of every plane and pixel: points, places, pictures, costs


@dataclass(frozen=True)
class AlignerSize:
    """What an aligner is built with. tuned: bytes of a host's decoder that it brings."""

    settings: tuple[tuple[str, object], ...]
    tuned: int = 0

    @staticmethod
    def of(aligner: nn.Module) -> "AlignerSize":
        tuned = sum(x.numel() * x.element_size() for x in getattr(aligner, "tuned", {}).values())
        return AlignerSize(frozen(aligner.settings), tuned)


@dataclass(frozen=True)
class AlignedCost:
    """Bytes of the aligner's weights, and beside them. sweep: of estimating depth, on the CPU. flops: of decoding."""

    weights: int
    decode: int
    sweep: int
    flops: float


def frozen(settings: dict) -> tuple[tuple[str, object], ...]:
    """Settings that can be a key."""
    return tuple((name, tuple(x) if isinstance(x, list) else x) for name, x in settings.items())


@lru_cache(maxsize=64)
def aligned_cost(
    codec: CodecConfig, aligner: AlignerSize, size: tuple[int, int], num_frames: int, views: int = 2,
    on_cpu: bool = False,
) -> AlignedCost:  # fmt: skip
    """Of views of `size` (H, W), of which those after the first are aligned, their pictures included. on_cpu: see
    `MemoryCounter`."""
    own = replace(codec, tile=None, tile_stride=None)
    followed = _FOLLOWED.get(codec.kind, _FRAME_BY_FRAME)
    frames = [num_frames] if num_frames <= followed[1] else followed
    peaks, flops, weights = [], 0, 0
    for count in frames:
        with fake_tensors(on_cpu) as counter:
            host, module = fake_pair(own, aligner)
            held = [*module.parameters()]
            weights = sum(x.numel() * x.element_size() for x in held) + aligner.tuned
            scene, latents = fake_scene(views, count, size), fake_latents(own, views, count, size)
            counter.ignore([*held, *weights_of(host)])
            counted = FlopCounterMode(display=False)
            with counter, counted, torch.no_grad():
                inputs = [x.clone() for x in (scene.depth, scene.pixels, latents)]
                module.decode(host, latents, scene, tuple(range(1, views)))
            del inputs
        peaks.append(counter.peak)
        flops = counted.get_total_flops()
    peak = peaks[-1]
    if len(frames) > 1:
        each = (peaks[1] - peaks[0]) / (frames[1] - frames[0])
        peak = round(peaks[1] + each * (num_frames - frames[1]))
    sweep = int(4 * PLANES * _SWEEP_VALUES * size[0] * size[1])
    return AlignedCost(weights, peak, sweep, flops * num_frames / frames[-1])


def fake_pair(codec: CodecConfig, aligner: AlignerSize) -> tuple[VideoCodec, nn.Module]:
    """A codec and an aligner behind it, without storage; call it inside `fake_tensors`."""
    settings = dict(aligner.settings)
    made = empty_codec(codec, None if codec.kind == "pca" else settings["width"])
    with torch.device("meta"):
        module = build_aligner(codec, settings)
    return made, allocate_fake(module, torch.float32, keep="")


def fake_scene(views: int, frames: int, size: tuple[int, int]) -> DecoderScene:
    """Any scene of these sizes."""
    poses, K = torch.eye(4).repeat(views, frames, 1, 1), torch.eye(3).repeat(views, frames, 1, 1)
    others = tuple(tuple(other for other in range(views) if other != view) for view in range(views))
    maps = (torch.empty(views, frames, *size), torch.empty(views, frames, 4, *size))
    return DecoderScene(Camera(poses, K, size), *maps, 1.0, others)


def fake_latents(codec: CodecConfig, views: int, frames: int, size: tuple[int, int]) -> torch.Tensor:
    """Latents of as many views and frames."""
    cells = tuple(side // codec.stride for side in size)
    return torch.empty(views, num_latent_frames(frames), codec.channels, *cells)
