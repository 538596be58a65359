"""What aligners that live inside a VAE's decoder share: one epipolar attention for each of its four levels.

It follows a level's last residual block, before the level is scaled up (Depth Guided Decoder §3.2), and is a module of
its own, hooked onto the VAE while it decodes, so the VAE's keys do not change. Where the decoder's own weights are
tuned along, as in the paper, the tuned ones are a part of this module and stand in for the VAE's while views are
aligned.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import deepcopy
from functools import partial

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from mvtrack.models.decoder.epipolar_attention import EpipolarAttention, EpipolarConfig
from mvtrack.models.decoder.scene import DecoderScene

MULTIPLES = (4, 4, 2, 1)  # of the network's width: a level's channels, the coarsest first


class HostedAligner(nn.Module):
    """As it starts, pictures are those of the codec, up to the rounding of a batch.

    host: the VAE's decoder with tuned weights; None: it has none, or waits for the VAE's network, with `tuned`.
    recomputes: see `recompute`.
    """

    recomputes = False

    def __init__(self, width: int, points: Sequence[int], dim: int, sources: int, reach: float) -> None:
        """width: of the VAE. points: on each ray, by level, the coarsest first. Else see `EpipolarConfig`."""
        super().__init__()
        self.settings = {"width": width, "points": list(points), "dim": dim, "sources": sources, "reach": reach}
        self.channels = tuple(multiple * width for multiple in MULTIPLES)
        self.levels = nn.ModuleList(
            EpipolarAttention(channels, EpipolarConfig(count, dim, sources, reach))
            for channels, count in zip(self.channels, points, strict=True)
        )
        self.host: nn.Module | None = None
        self.tuned: Mapping[str, Tensor] = {}

    def adopt(self, decoder: nn.Module) -> None:
        """Tune a VAE's decoder from the weights that it has: a copy of the VAE's own, which is changed in place."""
        self.host = decoder.requires_grad_(True)
        self.host.register_forward_pre_hook(_in_own_precision)

    @contextmanager
    def in_place_of(self, network: nn.Module) -> Iterator[nn.Module]:
        """The VAE with the tuned decoder in it, where there is one."""
        own = network.decoder
        if self.host is None and self.tuned:
            self.adopt(deepcopy(own))
            self.host.load_state_dict(self.tuned)
            self.host.eval().requires_grad_(False)
        network.decoder = own if self.host is None else self.host
        forgetful = self.blocks_of(network.decoder) if self.recomputes and torch.is_grad_enabled() else []
        for block in forgetful:
            block.forward = self.forgetting(block)
        try:
            yield network
        finally:
            network.decoder = own
            for block in forgetful:
                del block.forward  # the class's own shows again

    def blocks_of(self, decoder: nn.Module) -> list[nn.Module]:
        """What a VAE's decoder is made of, piece by piece."""
        raise NotImplementedError

    def forgetting(self, block: nn.Module) -> Callable:
        """A block's forward that keeps its inputs alone and is run once more in the backward pass."""
        return partial(checkpoint, block.forward, use_reentrant=False, preserve_rng_state=False)

    def check_fit(self, channels: tuple[int, ...], scene: DecoderScene, wanted: tuple[int, ...]) -> None:
        """Raise ValueError for a VAE of other channels at its levels, or a scene that is not `wanted`, (V, N, H, W)."""
        if tuple(scene.depth.shape) != wanted:
            raise ValueError(
                f"the scene of these latents must be (V, N, H, W) = {wanted}, got {tuple(scene.depth.shape)}"
            )
        if channels != self.channels:
            raise ValueError(
                f"this aligner is for a VAE of width {self.channels[-1]} with {self.channels} channels at its "
                f"decoder's levels, got one of width {channels[-1]} with {channels}"
            )


def recompute(aligner: nn.Module, on: bool) -> None:
    """Whether activations are forgotten in training: of each view's attention, and of the blocks of a VAE's decoder."""
    for module in aligner.modules():
        if isinstance(module, (EpipolarAttention, HostedAligner)):
            module.recomputes = on


def _in_own_precision(decoder: nn.Module, inputs: tuple) -> tuple:
    """Latents as the tuned weights are, which training may hold in bfloat16."""
    latents, *others = inputs
    return latents.to(next(decoder.parameters()).dtype), *others
