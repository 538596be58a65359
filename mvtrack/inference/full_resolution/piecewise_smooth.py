"""Estimated depth made smooth within surfaces: what a network or a sweep gets wrong in small areas tears pictures."""

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

_COLOUR, _LEAST_COUPLED = 0.15, 0.03  # difference of colours in [-1, 1] that parts neighbours, and what is left then
_STEP = 0.03  # of inverse depth, above which a larger step costs no more than in proportion
_LEAST_TRUST = 0.02
_ROUNDS, _PASSES = 4, 3


def piecewise_smooth(
    maps: Float[Tensor, "2 h w"], picture: Float[Tensor, "3 h w"], strength: float
) -> Float[Tensor, "2 h w"]:
    """Inverse depth that keeps to one value within surfaces and steps between them; confidence as it was.

    Its total variation, cheaper across the picture's edges, against squared distance from the map, weighted by squared
    confidence: by reweighted least squares, each solved along rows and columns by turns (fast global smoothing, Min et
    al. 2014). strength: of the first against the second; 0 changes nothing. An area of another depth stays if it is
    large, trusted or edged.
    """
    if not strength:
        return maps
    inverse, colours = maps[0].double().numpy(), picture.double().numpy()
    trust = maps[1].double().numpy().clip(0, 1) ** 2 + _LEAST_TRUST
    coupled = [
        np.exp(-np.sqrt(np.square(np.diff(colours, axis=axis)).sum(0)) / _COLOUR) + _LEAST_COUPLED for axis in (1, 2)
    ]
    smooth = inverse
    for number in range(_ROUNDS):
        columns, rows = (
            weight / (np.hypot(np.diff(smooth, axis=axis), _STEP) if number else 0.1)
            for axis, weight in enumerate(coupled)
        )
        both = np.stack([trust * inverse, trust])
        for turn in range(_PASSES):
            share = 1.5 * strength * 4 ** (_PASSES - turn - 1) / (4**_PASSES - 1)
            both = _diffused(both, share * rows)
            both = _diffused(both.transpose(0, 2, 1), share * columns.T).transpose(0, 2, 1)
        smooth = both[0] / both[1]
    return torch.stack([torch.from_numpy(smooth).to(maps), maps[1]])


def _diffused(maps: Float[np.ndarray, "C h w"], coupling: Float[np.ndarray, "h v"]) -> Float[np.ndarray, "C h w"]:
    """x with x + coupling's Laplacian of x = maps along every row: tridiagonal systems, all rows at once. v = w - 1."""
    own = np.ascontiguousarray(coupling.T)
    diagonal = np.ones((maps.shape[2], maps.shape[1]))
    diagonal[:-1] += own
    diagonal[1:] += own
    x, ratio = np.array(maps.transpose(2, 0, 1), order="C"), np.empty_like(own)
    for i in range(len(x)):
        pivot = diagonal[i] - (own[i - 1] * ratio[i - 1] if i else 0)
        if i < len(own):
            ratio[i] = own[i] / pivot
        x[i] = (x[i] + (own[i - 1] * x[i - 1] if i else 0)) / pivot
    for i in reversed(range(len(own))):
        x[i] += ratio[i] * x[i + 1]
    return x.transpose(1, 2, 0)
