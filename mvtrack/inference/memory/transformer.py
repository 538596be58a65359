"""Memory of one forward pass through the transformer beyond its weights."""

from dataclasses import dataclass, replace
from functools import lru_cache

import torch

from mvtrack.config.model import ModelConfig
from mvtrack.data.clip import num_latent_frames
from mvtrack.inference.memory.memory_tracker import allocate_fake, fake_tensors
from mvtrack.models.checkpoint_adapters import ADAPTER_CHANNELS, NativeInputs
from mvtrack.models.dit import WanDiT
from mvtrack.models.init_weights import empty_dit

TEXT_TOKENS, IMAGE_TOKENS = 512, 257  # of umT5's features, of CLIP's


@dataclass(frozen=True)
class InputShape:
    """What is put through: the views' size (H, W) and number of video frames, samples at once, views."""

    size: tuple[int, int]
    num_frames: int
    batch: int = 1
    views: int = 2

    def tokens(self, config: ModelConfig) -> int:
        """Of one sample."""
        token = config.rays.token_px
        cells = (self.size[0] // token) * (self.size[1] // token)
        return self.views * num_latent_frames(self.num_frames) * cells


@lru_cache(maxsize=64)
def forward_bytes(config: ModelConfig, scene: InputShape, dtype: torch.dtype, autocast: bool = False) -> int:
    """Peak of a forward pass without gradients, its inputs included."""
    dit = empty_dit(replace(config, tracking=None))
    with fake_tensors() as counter:
        allocate_fake(dit, dtype)
        counter.ignore(dit.parameters())
        with counter, torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            run_transformer(dit, config, scene)
    return counter.peak


def run_transformer(dit: WanDiT, config: ModelConfig, scene: InputShape, layers: tuple[int, ...] = (), track=None):
    """A pass on tensors of the right shapes."""
    frames, (height, width), dit_config = num_latent_frames(scene.num_frames), scene.size, config.dit
    lead, stride = (scene.batch, scene.views, frames), config.codec.stride
    latents = torch.empty(*lead, config.codec.channels, height // stride, width // stride)
    rays = torch.empty(*lead, config.rays.channels, height // config.rays.stride, width // config.rays.stride)
    length = config.text.length if config.text else TEXT_TOKENS
    text = torch.empty(scene.batch, length, dit_config.text_dim) if dit_config.text_dim else None
    native = NativeInputs(
        torch.empty(*lead, 12) if dit_config.pose_encoder else None,
        torch.empty(*lead, ADAPTER_CHANNELS, height, width) if dit_config.control_adapter else None,
        torch.empty(scene.batch, IMAGE_TOKENS, dit_config.image_dim) if dit_config.image_dim else None,
    )
    dit.attention_kernel = lambda device, tokens: "flash"  # a fused kernel; none is tried here
    timestep = torch.empty(scene.batch)
    return dit(latents, timestep, rays, text, tap_layers=layers, track=track, native=native)
