"""What REPA and Geometry Forcing have in common: a teacher's features of the clean views as targets."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from mvtrack.config.run import RunConfig
from mvtrack.data.loader import Batch
from mvtrack.models.backbone import DiTOutput
from mvtrack.models.feature_teachers import teacher_of
from mvtrack.training.losses.base import TrainingBatch


@dataclass(frozen=True)
class FeatureTargets:
    """A teacher's features of every token; known: tokens that have some."""

    features: Float[Tensor, "B V f h w C"]
    known: Bool[Tensor, "B V f h w"]

    def to(self, device: torch.device) -> "FeatureTargets":
        return FeatureTargets(self.features.to(device), self.known.to(device))

    def mean(self, values: Float[Tensor, "B V f h w"]) -> Float[Tensor, ""]:
        """Over the tokens that are known."""
        return (values * self.known).sum() / self.known.sum().clamp_min(1)


class FeatureLoss:
    """The tokens that one layer's block returns against a frozen network's, through `network.feature_projector`. All
    views count, references too: they pass through the same layers."""

    name: str
    seed_offset = 6
    sees_pictures = True

    def __init__(self, config: RunConfig) -> None:
        self.config, projector = config.loss.features, config.model.feature_projector
        self.tap_layers = () if projector is None else (projector.layer,)
        self.token_px = 1 if projector is None else config.model.token_px(projector.layer)
        self.dim = 0 if projector is None else projector.features

    def targets(self, batch: Batch, seeds: list[int]) -> FeatureTargets:
        """Raises ValueError for a teacher that cannot be had, or of another width than the projector's."""
        grid = tuple(side // self.token_px for side in batch.video.shape[-2:])
        features = teacher_of(self.config.teacher)(batch.video, grid, batch.camera, batch.depth)
        if features.shape[-1] != self.dim:
            raise ValueError(
                f"the teacher {self.config.teacher.kind} gives {features.shape[-1]} features, set "
                f"model.feature_projector.features to it, got {self.dim}"
            )
        known = features.isfinite().all(-1)
        return FeatureTargets(torch.where(known[..., None], features, 0.0), known)

    def projected(
        self, network: Callable[..., DiTOutput], batch: TrainingBatch, output: DiTOutput, layers: tuple[int, ...]
    ) -> tuple[Tensor, Tensor | None, FeatureTargets]:
        """What the projector makes of the layer's tokens, in float32, and the targets. layers: of the taps."""
        projected, scaled = network.feature_projector(output.hidden[layers.index(self.tap_layers[0])])
        return projected.float(), None if scaled is None else scaled.float(), batch.targets[self.name]
