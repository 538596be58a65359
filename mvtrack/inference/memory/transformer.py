"""Memory of one forward pass through the network beyond its weights."""

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import lru_cache

import torch
from torch import Tensor

from mvtrack.config.model import ModelConfig
from mvtrack.data.clip import num_latent_frames
from mvtrack.inference.memory.memory_tracker import allocate_fake, fake_tensors
from mvtrack.models.backbone import DiTOutput
from mvtrack.models.conditioning import ADAPTER_CHANNELS, Conditioning
from mvtrack.models.dit import WanDiT
from mvtrack.models.flops import still_inputs
from mvtrack.models.networks import Network, empty_network
from mvtrack.models.sequence_parallel import AloneOf, sharing

TEXT_TOKENS, IMAGE_TOKENS = 512, 257  # of umT5's features, of CLIP's


@dataclass(frozen=True)
class InputShape:
    """What is put through: the views' size (H, W) and number of video frames, samples at once, views. ranks: that share
    every frame's tokens."""

    size: tuple[int, int]
    num_frames: int
    batch: int = 1
    views: int = 2
    ranks: int = 1

    def tokens(self, config: ModelConfig) -> int:
        """Of one sample; of its coarsest grid, where a network has several."""
        token = config.size_unit_px
        cells = (self.size[0] // token) * (self.size[1] // token)
        return self.views * num_latent_frames(self.num_frames) * cells


@lru_cache(maxsize=64)
def forward_bytes(config: ModelConfig, scene: InputShape, dtype: torch.dtype, autocast: bool = False) -> int:
    """Peak of a forward pass on one rank, without gradients, its inputs included."""
    dit = empty_network(replace(config, tracking=None))
    shared = sharing(dit, AloneOf(scene.ranks)) if isinstance(dit, WanDiT) else nullcontext()
    with fake_tensors() as counter:
        allocate_fake(dit, dtype)
        counter.ignore(dit.parameters())
        with counter, shared, torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            run_network(dit, config, scene)
    return counter.peak


def run_network(dit: Network, config: ModelConfig, scene: InputShape, layers: tuple[int, ...] = ()) -> DiTOutput:
    """A pass on tensors of the right shapes, without storage."""
    if config.dit is not None:
        dit.attention_kernel = lambda device, tokens: "flash"  # a fused kernel; none is tried here
        return dit(*random_inputs(config, scene, torch.empty), layers)
    height, width = (side // config.codec.stride for side in scene.size)
    return dit(*still_inputs(config, scene.batch, scene.views, (height, width)), layers)


def random_inputs(
    config: ModelConfig, scene: InputShape, draw: Callable[..., Tensor] = torch.randn
) -> tuple[Tensor, Tensor, Conditioning]:
    """Latents, timesteps and conditioning of a pass of WanDiT. draw: makes a tensor of a shape."""
    frames, (height, width), sizes = num_latent_frames(scene.num_frames), scene.size, config.dit
    lead, stride = (scene.batch, scene.views, frames), config.codec.stride
    latents = draw(*lead, config.codec.channels, height // stride, width // stride)
    length = config.text.length if config.text else TEXT_TOKENS
    conditioning = Conditioning(
        rays=draw(*lead, config.rays.channels, height // config.rays.stride, width // config.rays.stride),
        text=draw(scene.batch, length, sizes.text_dim) if sizes.text_dim else None,
        poses=draw(*lead, 12) if sizes.pose_encoder else None,
        maps=draw(*lead, ADAPTER_CHANNELS, height, width) if sizes.control_adapter else None,
        image=draw(scene.batch, IMAGE_TOKENS, sizes.image_dim) if sizes.image_dim else None,
        projections=draw(*lead, 4, 4) if sizes.camera_encoding == "prope" else None,
    )
    return latents, draw(scene.batch).abs(), conditioning
