"""What every loss is: targets that it draws from a batch, and a value on what the network made of it."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import torch
from jaxtyping import Float
from torch import Tensor

from mvtrack.data.loader import Batch
from mvtrack.models.backbone import DiTOutput, Tap
from mvtrack.models.conditioning import Conditioning


@dataclass(frozen=True)
class TrainingBatch:
    """A batch as the network and the losses take it; all randomness is already drawn.

    latents: clean. targets: of every loss that has any, by its name.
    """

    latents: Float[Tensor, "B V f c h w"]
    noise: Float[Tensor, "B V f c h w"]
    sigma: Float[Tensor, "B"]
    conditioning: Conditioning
    targets: dict[str, Any] = field(default_factory=dict)

    def num_tokens(self, side: int) -> int:
        """Tokens of one sample, all its views. side: latents to a token's side."""
        return self.latents[0, :, :, 0].numel() // side**2

    def to(self, device: torch.device) -> "TrainingBatch":
        moved = {name: getattr(self, name).to(device) for name in ("latents", "noise", "sigma", "conditioning")}
        return replace(self, **moved, targets={name: x.to(device) for name, x in self.targets.items()})


class Loss(Protocol):
    """Made of a `RunConfig`; left out where its weight is 0.

    name: of its value in the log. tap_layers: blocks (counted from 0) whose q and k, or output, it looks at.
    seed_offset: a number of its own, so that what it draws depends on nothing else that is drawn. sees_pictures: its
    targets are made of the clean views, `batch.video`, on the device.
    """

    name: str
    weight: float
    tap_layers: tuple[int, ...]
    seed_offset: int
    sees_pictures: bool

    def targets(self, batch: Batch, seeds: list[int]) -> Any | None:
        """What the network should do on a batch, with a method `to(device)`; None where it needs nothing. seeds: one
        per sample. Raises ValueError for a batch that lacks what the loss needs."""

    def __call__(
        self, network: Callable[..., DiTOutput], batch: TrainingBatch, output: DiTOutput, taps: dict[int, Tap]
    ) -> dict[str, Float[Tensor, ""]]:
        """The loss by its name, and parts of it for the log, detached. network: the transformer, or the engine around
        it, for heads that travel with its weights. taps: q and k by layer."""
