"""From a diffusion network's tokens to the features of a frozen one (Yu et al. 2024, REPA; Wu et al. 2025, Geometry
Forcing)."""

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from mvtrack.config.features import ProjectorConfig


class FeatureProjector(nn.Module):
    """REPA's MLP of three layers; with `scale` also Geometry Forcing's from a direction to the features themselves."""

    def __init__(self, dim: int, config: ProjectorConfig) -> None:
        super().__init__()
        hidden, features = config.hidden, config.features
        self.mlp = nn.Sequential(
            nn.Linear(dim, hidden), nn.SiLU(), nn.Linear(hidden, hidden), nn.SiLU(), nn.Linear(hidden, features)
        )
        self.scale = None
        if config.scale:
            self.scale = nn.Sequential(nn.Linear(features, hidden), nn.SiLU(), nn.Linear(hidden, features))

    def forward(self, tokens: Float[Tensor, "*n D"]) -> tuple[Float[Tensor, "*n C"], Float[Tensor, "*n C"] | None]:
        """Features to be compared by direction, and by value where `scale` is on."""
        projected = self.mlp(tokens)
        return projected, None if self.scale is None else self.scale(F.normalize(projected, dim=-1))
