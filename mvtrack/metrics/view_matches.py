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
TRUE_PX, PIXEL_PX = 2.0, 1.0  # how far a match may be from the truth: anywhere near, and to the pixel
_SEEN_PX = 6  # from its middle, by a descriptor
_MOST_A_SIDE, _AT_ONCE = 48, 512  # points of a grid; compared with a whole picture
_MOST_DETECTED, _CONTRAST = 8192, 0.005


def count_matches(first: Float[Tensor, "3 H W"], second: Float[Tensor, "3 H W"]) -> int:
    """Mutual nearest neighbours among the points of two pictures in [-1, 1]; flat places have no descriptor."""
    return len(matched_points(first, second)[0])


def count_true(
    there: np.ndarray, found: np.ndarray, place: Float[Tensor, "H W 2"], seen: Bool[Tensor, "H W"],
    within_px: float = TRUE_PX,
) -> int:  # fmt: skip
    """Those of `matched_points` that are so near the truth. place: raster coordinates in the second picture of what the
    first one's pixels show. seen: which of them it shows too."""
    columns, rows = there.astype(int).T
    own_centre = np.stack([columns, rows], 1) + 0.5
    near = np.linalg.norm(place.numpy()[rows, columns] + there - own_centre - found, axis=1) <= within_px
    return int((near & seen.numpy()[rows, columns]).sum())


def pixel_matches(first: Float[Tensor, "3 H W"], second: Float[Tensor, "3 H W"]) -> tuple[np.ndarray, np.ndarray]:
    """Places (N, 2) in both pictures, raster coordinates (x, y), of matches to the pixel: of points on a grid of the
    first one, among all pixels of the second, which lead back to within a pixel. A match stands out from what lies
    farther from it than its descriptor sees, not from the pixels beside it, which are nearly alike."""
    (height, width), (rows, columns) = first.shape[1:], second.shape[1:]
    step = max(_STEP_PX, max(height, width) // _MOST_A_SIDE)
    at, everywhere, there = _grid(height, width, step), _grid(height, width, 1), _grid(rows, columns, 1)
    one, other = _described(first, everywhere), _described(second, there)
    column, row = at.astype(int).T
    found, stands_out = _nearest(one[row * width + column], other, there)
    back, _ = _nearest(other[found], one, everywhere)
    kept = stands_out & (np.abs(everywhere[back] - at).max(1) <= 1)
    return at[kept], there[found[kept]]


def _nearest(asked: np.ndarray, other: np.ndarray, place: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Number of the most alike of `other`, and whether it is much nearer than all that lie far from it."""
    best, stands_out = [], []
    for some in np.array_split(asked, -(-len(asked) // _AT_ONCE)):
        alike = some @ other.T
        best.append(alike.argmax(1))
        far = np.abs(place[best[-1], None] - place).max(2) > _SEEN_PX
        top, next_best = alike.max(1), np.where(far, alike, -1).max(1)
        nearest, next_nearest = (np.sqrt(np.maximum(2 - 2 * x, 0)) for x in (top, next_best))
        stands_out.append((nearest <= _RATIO * next_nearest) & (top > 0))
    return np.concatenate(best), np.concatenate(stands_out)


def _grid(height: int, width: int, step: int) -> np.ndarray:
    """Pixel centres (N, 2), every so manyth, row by row."""
    start = step // 2
    return np.stack(np.meshgrid(np.arange(start, width, step), np.arange(start, height, step)), -1).reshape(-1, 2) + 0.5


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
    height, width = picture.shape[1:]
    at = _grid(height, width, _STEP_PX)
    if detected:
        points, described = _sift().detectAndCompute(_grey(picture), None)
        if described is None:
            return np.zeros((0, 128), np.float32), np.zeros((0, 2))
        described, at = _rooted(described), np.array([point.pt for point in points]) + 0.5
    else:
        described = _described(picture, at)
    has_one = described.any(1)
    return described[has_one], at[has_one]


def _described(picture: Float[Tensor, "3 H W"], at: np.ndarray) -> np.ndarray:
    """Descriptors (N, 128) of places, all zero where nothing is to be seen."""
    points = [cv2.KeyPoint(float(x), float(y), _SIZE_PX) for x, y in at - 0.5]
    return _rooted(_sift().compute(_grey(picture), points)[1])


def _rooted(described: np.ndarray) -> np.ndarray:
    """RootSIFT, of unit length."""
    return np.sqrt(described / np.maximum(np.abs(described).sum(1, keepdims=True), 1e-9))


def _sift() -> cv2.SIFT:
    return cv2.SIFT.create(_MOST_DETECTED, contrastThreshold=_CONTRAST)


def _grey(picture: Float[Tensor, "3 H W"]) -> np.ndarray:
    return cv2.cvtColor(to_bytes(picture[None])[0], cv2.COLOR_RGB2GRAY)
