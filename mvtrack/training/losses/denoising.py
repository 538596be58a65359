"""What a diffusion model is trained for: the squared error of what it predicts on the views that were noised."""

from collections.abc import Callable

from jaxtyping import Float
from torch import Tensor

from mvtrack.config.run import RunConfig
from mvtrack.data.loader import Batch
from mvtrack.models.backbone import DiTOutput, Tap
from mvtrack.models.diffusion.process import process_of
from mvtrack.training.losses.base import TrainingBatch


class DenoisingLoss:
    """Of the velocity or the clean latents (rectified flow, method §2), or of v (discrete diffusion). References stay
    clean and count for nothing. Off while a teacher is distilled."""

    tap_layers = ()
    sees_pictures = False
    seed_offset = 0

    def __init__(self, config: RunConfig) -> None:
        self.process = process_of(config.model)
        self.name = "flow" if config.model.diffusion is None else "diffusion"
        self.weight = 0.0 if config.loss.distillation > 0 else 1.0

    def targets(self, batch: Batch, seeds: list[int]) -> None:
        """None: the target is the noise, which is drawn for the network's input."""

    def __call__(
        self, network: Callable[..., DiTOutput], batch: TrainingBatch, output: DiTOutput, taps: dict[int, Tap]
    ) -> dict[str, Float[Tensor, ""]]:
        predicted, reference = output.prediction.float(), batch.conditioning.reference
        wanted = self.process.target(batch.latents, batch.noise, batch.sigma)
        if reference is None:
            per_sample = (predicted[:, 1:] - wanted[:, 1:]).square().flatten(1).mean(1)
        else:
            error = (predicted - wanted).square().mean((3, 4, 5)) * ~reference  # (B, V, f)
            per_sample = error.sum((1, 2)) / (~reference).sum((1, 2))
        weight = self.process.weight(batch.sigma)
        return {self.name: (per_sample if weight is None else per_sample * weight.to(per_sample.device)).mean()}
