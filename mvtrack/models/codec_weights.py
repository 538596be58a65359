"""Codecs whose weights are named by their config and read at the first use."""

from abc import abstractmethod

import torch
from torch import Tensor, nn

from mvtrack.config.encoders import CodecConfig


class ReleasedCodec(nn.Module):
    """The weights stay outside of `state_dict`: a model file names them. The network runs where its input lies, in the
    config's precision.
    """

    def __init__(self, config: CodecConfig) -> None:
        super().__init__()
        self.config, self.channels, self.stride = config, config.channels, config.stride
        self._network: list[nn.Module] = []  # in a list, so that it is no submodule

    @abstractmethod
    def read_network(self) -> nn.Module:
        """The network that the config names."""

    def put_in(self, network: nn.Module) -> None:
        """Use this network instead of reading the weights."""
        self._network[:] = [network]

    def network(self, device: torch.device) -> nn.Module:
        """The network on a device. Raises ValueError when its weights or its package are missing."""
        if not self._network:
            self._network.append(self.read_network())
        network = self._network[0]
        return network if next(network.parameters()).device == device else network.to(device)

    @property
    def dtype(self) -> torch.dtype:
        return getattr(torch, self.config.precision)

    def check_size(self, video: Tensor) -> None:
        """Raise ValueError for pictures (..., H, W) that are not of whole latents."""
        height, width = video.shape[-2:]
        if height % self.stride or width % self.stride:
            raise ValueError(f"video size {height}x{width} is not divisible by the codec's stride {self.stride}")

    def _apply(self, function, recurse: bool = True):
        """`to` moves the network too, where it was read already."""
        for network in self._network:
            network._apply(function, recurse)
        return super()._apply(function, recurse)
