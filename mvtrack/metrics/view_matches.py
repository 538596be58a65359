"""How many points of one view can be found again in another: views that are aligned to the pixel have more.

The measure of Depth Guided Decoder, table 2, without learned weights: SIFT descriptors on a grid, mutual nearest
neighbours that stand out (Lowe's ratio), instead of a trained dense matcher. Only ratios of counts mean something.
"""

import cv2
import numpy as np
from jaxtyping import Float
from torch import Tensor

from mvtrack.video.writer import to_bytes

_STEP_PX, _SIZE_PX = 2, 2.0  # of the grid of described points, and of a point; its descriptor sees six times as much
_RATIO = 0.9


def count_matches(first: Float[Tensor, "3 H W"], second: Float[Tensor, "3 H W"]) -> int:
    """Mutual nearest neighbours among the points of two pictures in [-1, 1]; flat places have no descriptor."""
    one, other = _descriptors(first), _descriptors(second)
    if len(one) < 2 or len(other) < 2:
        return 0
    similarity = one @ other.T
    there, back = similarity.argmax(1), similarity.argmax(0)
    mutual = back[there] == np.arange(len(one))
    return int((mutual & _stands_out(similarity) & _stands_out(similarity.T)[there]).sum())


def _stands_out(similarity: np.ndarray) -> np.ndarray:
    """Whether each row's best is much nearer than its second best."""
    best, second_best = -np.partition(-similarity, 1, axis=1)[:, :2].T
    nearest, next_nearest = (np.sqrt(np.maximum(2 - 2 * s, 0)) for s in (best, second_best))
    return nearest <= _RATIO * next_nearest


def _descriptors(picture: Float[Tensor, "3 H W"]) -> np.ndarray:
    """Of unit length, (N, 128)."""
    grey = cv2.cvtColor(to_bytes(picture[None])[0], cv2.COLOR_RGB2GRAY)
    height, width = grey.shape
    points = [
        cv2.KeyPoint(float(x), float(y), _SIZE_PX)
        for y in range(_STEP_PX // 2, height, _STEP_PX)
        for x in range(_STEP_PX // 2, width, _STEP_PX)
    ]
    _, described = cv2.SIFT.create().compute(grey, points)
    norm = np.linalg.norm(described, axis=1, keepdims=True)
    described = described[norm[:, 0] > 0] / norm[norm[:, 0] > 0]
    return np.sqrt(described / np.maximum(np.abs(described).sum(1, keepdims=True), 1e-9))  # RootSIFT
