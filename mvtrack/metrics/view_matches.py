"""How many points of one view can be found again in another: views that are aligned to the pixel have more.

The measure of Depth Guided Decoder, table 2, without learned weights: SIFT descriptors on a grid, mutual nearest
neighbours that stand out (Lowe's ratio), instead of a trained dense matcher. Only ratios of counts mean something.
Blocks and blur match each other too: where the true geometry is known, matches that follow it can be counted alone.
"""

import cv2
import numpy as np
from jaxtyping import Bool, Float
from torch import Tensor

from mvtrack.video.writer import to_bytes

_STEP_PX, _SIZE_PX = 2, 2.0  # of the grid of described points, and of a point; its descriptor sees six times as much
_RATIO = 0.9
_TRUE_PX = 2.0
_MOST_DETECTED, _CONTRAST = 8192, 0.005


def count_matches(first: Float[Tensor, "3 H W"], second: Float[Tensor, "3 H W"]) -> int:
    """Mutual nearest neighbours among the points of two pictures in [-1, 1]; flat places have no descriptor."""
    return len(matched_points(first, second)[0])


def count_true(there: np.ndarray, found: np.ndarray, place: Float[Tensor, "H W 2"], seen: Bool[Tensor, "H W"]) -> int:
    """Those of `matched_points` within two pixels of the truth. place: raster coordinates in the second picture
    of what the first one's pixels show. seen: which of them it shows too."""
    rows, columns = there[:, 1].astype(int), there[:, 0].astype(int)
    near = np.linalg.norm(place.numpy()[rows, columns] - found, axis=1) <= _TRUE_PX
    return int((near & seen.numpy()[rows, columns]).sum())


def matched_points(
    first: Float[Tensor, "3 H W"], second: Float[Tensor, "3 H W"], detected: bool = False
) -> tuple[np.ndarray, np.ndarray]:
    """Places (N, 2) in both pictures of mutual nearest neighbours, raster coordinates (x, y): of points on a grid, or
    of those that SIFT detects, to a fraction of a pixel."""
    (one, at), (other, at_other) = _descriptors(first, detected), _descriptors(second, detected)
    if len(one) < 2 or len(other) < 2:
        return np.zeros((0, 2)), np.zeros((0, 2))
    similarity = one @ other.T
    there, back = similarity.argmax(1), similarity.argmax(0)
    mutual = back[there] == np.arange(len(one))
    kept = mutual & _stands_out(similarity) & _stands_out(similarity.T)[there]
    return at[kept], at_other[there[kept]]


def _stands_out(similarity: np.ndarray) -> np.ndarray:
    """Whether each row's best is much nearer than its second best."""
    best, second_best = -np.partition(-similarity, 1, axis=1)[:, :2].T
    nearest, next_nearest = (np.sqrt(np.maximum(2 - 2 * s, 0)) for s in (best, second_best))
    return nearest <= _RATIO * next_nearest


def _descriptors(picture: Float[Tensor, "3 H W"], detected: bool) -> tuple[np.ndarray, np.ndarray]:
    """Of unit length, (N, 128), and their places (N, 2)."""
    grey = cv2.cvtColor(to_bytes(picture[None])[0], cv2.COLOR_RGB2GRAY)
    height, width = grey.shape
    points = [
        cv2.KeyPoint(float(x), float(y), _SIZE_PX)
        for y in range(_STEP_PX // 2, height, _STEP_PX)
        for x in range(_STEP_PX // 2, width, _STEP_PX)
    ]
    sift = cv2.SIFT.create(_MOST_DETECTED, contrastThreshold=_CONTRAST)
    points, described = sift.detectAndCompute(grey, None) if detected else sift.compute(grey, points)
    if described is None:
        return np.zeros((0, 128), np.float32), np.zeros((0, 2))
    norm = np.linalg.norm(described, axis=1, keepdims=True)
    has_one = norm[:, 0] > 0
    described = described[has_one] / norm[has_one]
    rooted = np.sqrt(described / np.maximum(np.abs(described).sum(1, keepdims=True), 1e-9))  # RootSIFT
    return rooted, np.array([point.pt for point in points])[has_one] + 0.5
