"""REPA (Yu et al. 2024): a layer's tokens, projected, point where DINOv2's of the clean picture do."""

from collections.abc import Callable

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from mvtrack.config.run import RunConfig
from mvtrack.models.backbone import DiTOutput, Tap
from mvtrack.training.losses.base import TrainingBatch
from mvtrack.training.losses.features import FeatureLoss


class RepaLoss(FeatureLoss):
    """Minus the mean cosine."""

    name = "repa"

    def __init__(self, config: RunConfig) -> None:
        super().__init__(config)
        self.weight = config.loss.features.repa

    def __call__(
        self, network: Callable[..., DiTOutput], batch: TrainingBatch, output: DiTOutput, taps: dict[int, Tap]
    ) -> dict[str, Float[Tensor, ""]]:
        projected, _, targets = self.projected(network, batch, output, tuple(taps))
        return {self.name: -targets.mean(F.cosine_similarity(projected, targets.features, dim=-1))}
