"""The rotation, shift and scale that lay one set of points on another best."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor


@dataclass(frozen=True)
class Similarity:
    """x -> scale * rotation x + shift."""

    rotation: Float[Tensor, "3 3"]
    shift: Float[Tensor, "3"]
    scale: Float[Tensor, ""]

    @staticmethod
    def between(source: Float[Tensor, "N 3"], target: Float[Tensor, "N 3"]) -> "Similarity":
        """Least squares over all points (Umeyama 1991). Points in one place give scale 0, points on a line an
        arbitrary turn about it."""
        centre_a, centre_b = source.mean(0), target.mean(0)
        a, b = source - centre_a, target - centre_b
        u, spread, vt = torch.linalg.svd(b.mT @ a)
        sign = torch.ones_like(spread)
        sign[2] = torch.sign(torch.linalg.det(u) * torch.linalg.det(vt))
        rotation = (u * sign) @ vt
        size = a.square().sum()
        scale = (spread * sign).sum() / size if size > 0 else torch.zeros_like(size)
        return Similarity(rotation, centre_b - scale * rotation @ centre_a, scale)

    def apply(self, points: Float[Tensor, "*any 3"]) -> Float[Tensor, "*any 3"]:
        return self.scale * points @ self.rotation.mT + self.shift
