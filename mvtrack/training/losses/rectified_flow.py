"""Rectified flow: the mean squared error of the velocity (or of the clean latents) on what was noised (method §2)."""

from collections.abc import Callable

from jaxtyping import Float
from torch import Tensor

from mvtrack.config.model import FlowConfig
from mvtrack.config.run import RunConfig
from mvtrack.data.loader import Batch
from mvtrack.models.backbone import DiTOutput, Tap
from mvtrack.models.diffusion.flow import training_weight
from mvtrack.training.losses.base import TrainingBatch


class RectifiedFlowLoss:
    """References stay clean and count for nothing."""

    name = "flow"
    tap_layers = ()
    seed_offset = 0

    def __init__(self, config: RunConfig) -> None:
        self.config: FlowConfig = config.model.flow
        self.weight = 1.0

    def targets(self, batch: Batch, seeds: list[int]) -> None:
        """None: the target is the noise, which is drawn for the network's input."""

    def __call__(
        self, network: Callable[..., DiTOutput], batch: TrainingBatch, prediction: Tensor, taps: dict[int, Tap]
    ) -> dict[str, Float[Tensor, ""]]:
        predicted, reference = prediction.float(), batch.conditioning.reference
        wanted = batch.latents if self.config.prediction == "x0" else batch.noise - batch.latents
        if reference is None:
            per_sample = (predicted[:, 1:] - wanted[:, 1:]).square().flatten(1).mean(1)
        else:
            error = (predicted - wanted).square().mean((3, 4, 5)) * ~reference  # (B, V, f)
            per_sample = error.sum((1, 2)) / (~reference).sum((1, 2))
        if self.config.weighting == "wan":
            per_sample = per_sample * training_weight(batch.sigma, self.config.shift).to(per_sample.device)
        return {self.name: per_sample.mean()}
