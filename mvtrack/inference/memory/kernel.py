"""The attention kernel of a video to come, chosen before anything is loaded."""

import torch

from mvtrack.config.model import ModelConfig
from mvtrack.config.placement import Placement
from mvtrack.data.clip import padded_length
from mvtrack.inference.memory.transformer import InputShape
from mvtrack.models.attention import choose_kernel


def kernel_of_video(
    config: ModelConfig, size: tuple[int, int], num_frames: int, placement: Placement, views: int = 2
) -> str:
    """For the first window's tokens, as the transformer will choose it.

    Raises ValueError, like `choose_kernel`, for a kernel that does not work here, or if none does without writing more
    scores than memory holds.
    """
    scene = InputShape(size, min(padded_length(num_frames), config.num_frames), views=views)
    device, heads = placement.torch_device, config.dit.num_heads
    dtype = attention_precision(config, placement)
    width = config.dit.dim // heads
    return choose_kernel(placement.attention, device, dtype, heads, width, scene.tokens(config), training=False)


def attention_precision(config: ModelConfig, placement: Placement) -> torch.dtype:
    """bfloat16 where the weights are, or where their products are rounded to it (see generate.matmul_precision)."""
    wanted = placement.precision or config.sampling.precision
    fast = placement.torch_device.type == "cuda" or torch.backends.cpu.get_cpu_capability().startswith("AVX512")
    return torch.bfloat16 if wanted == "bfloat16" or fast else torch.float32
