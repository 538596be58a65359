"""Matches by features alone, the surest first: nearest neighbours one way, weighed by Lowe's ratio (Probe3D)."""

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

_CELLS = 1 << 26  # similarities that exist at a time


def ratio_test_matches(
    queries: Float[Tensor, "n d"], keys: Float[Tensor, "m d"], count: int
) -> tuple[Int[Tensor, "k"], Int[Tensor, "k"]]:
    """Indices of the k = min(count, n) queries with the largest 1 - d1 / d2, and of their nearest keys.

    d1, d2: cosine distances to the nearest and second nearest key. Raises ValueError for fewer than two keys.
    """
    if len(keys) < 2:
        raise ValueError(f"a ratio test needs two keys at least, got {len(keys)}")
    queries, keys = F.normalize(queries, dim=-1), F.normalize(keys, dim=-1)
    weights, nearest = [], []
    for part in queries.split(max(1, _CELLS // len(keys))):
        similarity, index = (part @ keys.mT).topk(2, dim=-1)
        distance = (1 - similarity).clamp_min(1e-9)
        weights.append(1 - distance[:, 0] / distance[:, 1])
        nearest.append(index[:, 0])
    best = torch.cat(weights).topk(min(count, len(queries))).indices
    return best, torch.cat(nearest)[best]
