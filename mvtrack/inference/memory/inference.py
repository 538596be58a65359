"""Memory and time of making a video or still views, phase by phase: captions, encoding, sampling, decoding."""

from dataclasses import dataclass, replace
from functools import lru_cache

import torch

from mvtrack.config.encoders import CodecConfig
from mvtrack.config.model import ModelConfig
from mvtrack.config.placement import Placement
from mvtrack.data.clip import num_latent_frames, padded_length
from mvtrack.inference.device import placed_config
from mvtrack.inference.memory.aligned import AlignerSize, aligned_cost
from mvtrack.inference.memory.codec import codec_cost
from mvtrack.inference.memory.encoders import encoder_phases
from mvtrack.inference.memory.transformer import IMAGE_TOKENS, TEXT_TOKENS, InputShape, forward_bytes
from mvtrack.inference.quantization import is_quantized
from mvtrack.inference.ranks import refuse_ranks, token_ranks
from mvtrack.inference.sampler import SamplerOptions, window_spans
from mvtrack.models.flops import forward_flops, reference_flops, view_forward_flops
from mvtrack.models.networks import empty_network
from mvtrack.models.sequence_parallel import exchanged_bytes
from mvtrack.models.tiling import tiles

GIB = 2**30
_ROW_BYTES = 5  # of a quantised layer's output: a float32 scale, in int8 a zero point too
UTILISATION = 0.45  # of a processor's best, that such models reach as a rule


@dataclass(frozen=True)
class Work:
    """What is done beside sampling. encoders: those that still have to run, see `encoders_of`. views: seen together.
    decodes: pictures are made of latents. aligner: they are made a second time, see `mvtrack.models.decoder`.
    batches: of a model for still scenes, which makes as many views at once as its config says."""

    encoders: tuple[str, ...] = ()
    views: int = 2
    decodes: bool = True
    aligner: AlignerSize | None = None
    batches: int = 1


@dataclass(frozen=True)
class Estimate:
    """phases: bytes on the device in each, weights included. host: bytes of weights that rest in the CPU's memory while
    another device works. flops: of all sampling. codec_flops: of encoding and decoding. ranks: devices that share the
    sampling; phases are the first one's. sent: bytes that each sends to others in it."""

    phases: dict[str, int]
    host: int
    flops: float
    codec_flops: float
    ranks: int = 1
    sent: int = 0

    @property
    def peak(self) -> int:
        return max(self.phases.values())

    @property
    def worst(self) -> str:
        """The phase that takes most."""
        return max(self.phases, key=self.phases.__getitem__)

    def seconds(self, peak_flops: float) -> float:
        """On devices that each do so many FLOP/s at best. What they send is left out."""
        return (self.flops / self.ranks + self.codec_flops) / (UTILISATION * peak_flops)


def estimate_inference(
    config: ModelConfig, size: tuple[int, int], num_frames: int, sample: SamplerOptions | None = None,
    placement: Placement | None = None, work: Work | None = None,
) -> Estimate:  # fmt: skip
    """What re-shooting a video of num_frames at a size (H, W) that the model takes will need; of a model for single
    views of still scenes, what making `work.batches` of them will.

    work: None is a video whose captions and pictures are encoded already; encoders are gone before the rest is there.
    Device "cpu" is the host itself, where swapping whole parts gains nothing and processes share its memory and time;
    any other counts as a GPU. Weights that are read as they lie in a file count like all others, though the system may
    drop their pages. Raises ValueError for `gpus` that cannot share the work.
    """
    sample, placement, work = sample or SamplerOptions.of(config), placement or Placement("cpu"), work or Work()
    config = placed_config(config, placement)
    if placement.device == "cpu" and placement.offload == "model":
        placement = replace(placement, offload="none")
    still, on_cpu, ranks = config.views is not None, placement.device == "cpu", placement.gpus
    by_window = placement.share == "windows"
    guided, dtype, autocast = _is_guided(sample), *_precision(config, placement)
    scene = one_pass(config, size, num_frames, sample, placement, work.views)
    length, views = scene.num_frames, scene.views
    in_turn = guided and scene.batch == 1 and (by_window or ranks % 2 == 1)  # its predictions
    whole, block = weights_bytes(config, dtype, placement.quantize is not None)
    forward = forward_bytes(config, scene, dtype, autocast)
    if sample.cache:  # what the blocks of each prediction added, and their input while they run
        forward += (1 + guided + scene.batch) * scene.tokens(config) * config.dit.dim * dtype.itemsize
    if config.dit is not None and config.dit.reference_attention == "own" and in_turn:
        # a pass holds the references' keys and values of all blocks already; guidance keeps a second set of them
        tokens = scene.tokens(config) // (scene.views * scene.ranks)
        forward += 2 * config.num_layers * tokens * config.dit.dim * dtype.itemsize
    codec = codec_cost(config.codec, size, length, views if still else 1, on_cpu)
    blocks = block * config.num_layers
    dit = {"none": whole, "model": whole, "blocks": whole - blocks + 2 * block}[placement.offload]
    beside = 0 if placement.offload == "model" else dit
    kept = 0 if placement.offload == "model" else codec.weights
    phases = {
        "encoding": beside + codec.weights + codec.encode,
        "sampling": (dit + forward) * (ranks if on_cpu else 1) + kept,
    }
    if work.decodes:
        phases["decoding"] = beside + codec.weights + codec.decode
    if by_window and on_cpu:  # each with a codec of its own
        phases |= {name: needed * ranks for name, needed in phases.items() if name != "sampling"}
        phases["sampling"] += kept * (ranks - 1)
    aligned = work.aligner and aligned_cost(config.codec, work.aligner, size, length, views, on_cpu)
    if aligned:
        phases["second decoding"] = beside + codec.weights + aligned.weights + aligned.decode
        if on_cpu:
            phases["depth between views"] = beside + codec.weights + aligned.sweep
    phases = encoder_phases(config, placement, work.encoders) | phases
    host = {"none": 0, "model": whole + codec.weights, "blocks": blocks}[placement.offload]
    host = 0 if on_cpu else host  # blocks are read from the file when their turn comes
    if by_window and len(window_spans(config, num_frames)) == 1:
        raise ValueError(f"{num_frames} frames are one window: leave out --share windows, or use --window")
    runs = work.batches if still else _turns(config, num_frames, placement)
    flops = all_flops(config, scene, num_frames, sample, placement) * (work.batches if still else 1)
    alone = 1 / ranks if by_window else share_of_tiles(config.codec, size, ranks)
    coded = codec.flops * (1 if on_cpu else alone)
    coded += aligned.flops if aligned else 0
    codec_flops = coded * runs * (1 if still or work.decodes else views)
    sent = sample.steps * runs * (2 if in_turn else 1) * scene.batch * _sent(config, scene, dtype)
    return Estimate(phases, host, flops, codec_flops, 1 if on_cpu else ranks, sent)


def one_pass(
    config: ModelConfig, size: tuple[int, int], num_frames: int, sample: SamplerOptions, placement: Placement,
    views: int = 2,
) -> InputShape:  # fmt: skip
    """What a device puts through the network at once. views: of a video; a model for still scenes says its own. Raises
    ValueError for `gpus` that cannot share it."""
    still, guided = config.views is not None, _is_guided(sample)
    count = placement.gpus if placement.share == "passes" else 1  # that share it
    length = 1 if still else min(padded_length(num_frames), config.num_frames)
    both = guided and placement.batched_guidance and count % 2 == 1  # else one each, or by turns
    scene = InputShape(
        size, length, 2 if both else 1, config.views.count if still else views, token_ranks(count, guided)
    )
    if count > 1:
        cells = scene.tokens(config) // (scene.views * num_latent_frames(length))
        refuse_ranks(config.dit.num_heads, cells, count, guided)
    return scene


def all_flops(
    config: ModelConfig, scene: InputShape, num_frames: int, sample: SamplerOptions, placement: Placement
) -> float:
    """Of all devices, for a video of any length, or one batch of views."""
    runs = 1 if config.views is not None else _turns(config, num_frames, placement)
    return _flops(config, scene, sample.steps) * (2 if _is_guided(sample) else 1) * runs


def _turns(config: ModelConfig, num_frames: int, placement: Placement) -> int:
    """Windows of a video. Where each device makes its own, those that the last ones have nothing to make count too."""
    count = len(window_spans(config, num_frames))
    together = placement.gpus if placement.share == "windows" and placement.device != "cpu" else 1
    return -(-count // together) * together


def share_of_tiles(config: CodecConfig, size: tuple[int, int], ranks: int) -> float:
    """What the busiest of so many devices does of the codec's work."""
    height, width = (side // config.stride for side in size)
    count = len(list(tiles((height, width), config.tile, config.tile_stride)))
    return -(-count // ranks) / count


def _is_guided(sample: SamplerOptions) -> bool:
    return sample.guidance != 1 or sample.camera_guidance != 1


@lru_cache(maxsize=32)
def weights_bytes(config: ModelConfig, dtype: torch.dtype, quantized: bool = False) -> tuple[int, int]:
    """Bytes of the network's weights, and of one block's among them where blocks can be offloaded. quantized: see
    mvtrack/inference/quantization.py."""
    network = empty_network(config)
    if config.dit is None:  # whose layers are never parted
        return sum(p.numel() for p in network.parameters()) * dtype.itemsize, 0
    block = sum(p.numel() for p in network.blocks[0].parameters()) * dtype.itemsize
    head = 0 if network.tracking_head is None else sum(p.numel() for p in network.tracking_head.parameters())
    whole = (sum(p.numel() for p in network.parameters()) - head) * dtype.itemsize + 4 * head
    layers = network.blocks[0].named_modules() if quantized else ()
    saved = sum(
        (dtype.itemsize - 1) * layer.weight.numel() - _ROW_BYTES * len(layer.weight)
        for name, layer in layers
        if is_quantized(name, layer)
    )
    return whole - saved * config.num_layers, block - saved


def _precision(config: ModelConfig, placement: Placement) -> tuple[torch.dtype, bool]:
    """Of the weights, and whether products are in bfloat16 all the same (see generate.matmul_precision)."""
    wanted = placement.precision or config.sampling.precision
    if wanted == "bfloat16":
        return torch.bfloat16, False
    cpu_too = torch.backends.cpu.get_cpu_capability().startswith("AVX512")
    return torch.float32, placement.device != "cpu" or cpu_too  # what a file holds is not known here: the larger


def _sent(config: ModelConfig, scene: InputShape, dtype: torch.dtype) -> int:
    """By one rank in one pass, to those that share its tokens."""
    if scene.ranks == 1:
        return 0
    dit = config.dit
    values = dit.out_channels * dit.patch_size[1] ** 2
    return exchanged_bytes(dit.dim, dit.num_layers, scene.tokens(config), values, scene.ranks, dtype.itemsize)


def _flops(config: ModelConfig, scene: InputShape, steps: int) -> float:
    """Of all forward passes of one sample."""
    tokens = replace(scene, batch=1).tokens(config)
    if config.dit is None:
        return steps * view_forward_flops(config, tokens)[0]
    text = (config.text.length if config.text else TEXT_TOKENS) if config.dit.text_dim else 0
    image = IMAGE_TOKENS if config.dit.image_dim else 0
    grid = (scene.views, num_latent_frames(config.num_frames))
    once = reference_flops(config.dit, tokens, text, image, grid)
    return steps * (forward_flops(config.dit, tokens, text, image_tokens=image, grid=grid) - once) + once
