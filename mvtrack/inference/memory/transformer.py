"""Memory of one forward pass through the network beyond its weights."""

from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import lru_cache

import torch

from mvtrack.config.model import ModelConfig
from mvtrack.data.clip import num_latent_frames
from mvtrack.inference.memory.memory_tracker import allocate_fake, fake_tensors
from mvtrack.inference.ranks import sharing
from mvtrack.models.backbone import DiTOutput
from mvtrack.models.conditioning import ADAPTER_CHANNELS, Conditioning
from mvtrack.models.dit import WanDiT
from mvtrack.models.flops import still_inputs
from mvtrack.models.networks import Network, empty_network
from mvtrack.models.sequence_parallel import AloneOf

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
    """A pass on tensors of the right shapes."""
    frames, (height, width), sizes = num_latent_frames(scene.num_frames), scene.size, config.dit
    lead, stride = (scene.batch, scene.views, frames), config.codec.stride
    cells = (height // stride, width // stride)
    if config.dit is None:
        return dit(*still_inputs(config, scene.batch, scene.views, cells), layers)
    latents = torch.empty(*lead, config.codec.channels, *cells)
    length = config.text.length if config.text else TEXT_TOKENS
    conditioning = Conditioning(
        rays=torch.empty(*lead, config.rays.channels, height // config.rays.stride, width // config.rays.stride),
        text=torch.empty(scene.batch, length, sizes.text_dim) if sizes.text_dim else None,
        poses=torch.empty(*lead, 12) if sizes.pose_encoder else None,
        maps=torch.empty(*lead, ADAPTER_CHANNELS, height, width) if sizes.control_adapter else None,
        image=torch.empty(scene.batch, IMAGE_TOKENS, sizes.image_dim) if sizes.image_dim else None,
        projections=torch.empty(*lead, 4, 4) if sizes.camera_encoding == "prope" else None,
    )
    dit.attention_kernel = lambda device, tokens: "flash"  # a fused kernel; none is tried here
    return dit(latents, torch.empty(scene.batch), conditioning, layers)
