"""Geometry Forcing (Wu et al. 2025): a layer's tokens carry VGGT's features, by direction and by size."""

from collections.abc import Callable

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from mvtrack.config.run import RunConfig
from mvtrack.models.backbone import DiTOutput, Tap
from mvtrack.training.losses.base import TrainingBatch
from mvtrack.training.losses.features import FeatureLoss


class GeometryForcingLoss(FeatureLoss):
    """angular: minus the mean cosine of projected tokens and features. scale: squared error of the features that are
    predicted from the projection's direction alone."""

    name = "geometry_forcing"

    def __init__(self, config: RunConfig) -> None:
        super().__init__(config)
        self.weight = config.loss.features.geometry_forcing

    def __call__(
        self, network: Callable[..., DiTOutput], batch: TrainingBatch, output: DiTOutput, taps: dict[int, Tap]
    ) -> dict[str, Float[Tensor, ""]]:
        projected, scaled, targets = self.projected(network, batch, output, tuple(taps))
        angular = -targets.mean(F.cosine_similarity(projected, targets.features, dim=-1))
        scale = targets.mean((scaled - targets.features).square().mean(-1))
        total = self.config.angular * angular + self.config.scale * scale
        parts = {f"{self.name}_angular": angular.detach(), f"{self.name}_scale": scale.detach()}
        return {self.name: total} | parts
