"""Tables and statistics of correspondence scores: pure functions on arrays."""

import math

import torch
from jaxtyping import Float
from torch import Tensor


def harmonic_mean(*tables: Float[Tensor, "*table"]) -> Float[Tensor, "*table"]:
    """Harmonic mean of scores after each table was stretched to [0, 1] by its own extremes (MVTrack4Gen §4.2).

    Tables are layer x step, one per score. Zero where any score is at its least; a table without spread counts as 1.
    """
    if not tables or any(table.shape != tables[0].shape for table in tables):
        raise ValueError(f"scores must be tables of one shape, got {[tuple(table.shape) for table in tables]}")
    total = torch.zeros_like(tables[0])
    for table in tables:
        low, high = table.min(), table.max()
        total = total + 1 / ((table - low) / (high - low) if high > low else torch.ones_like(table))
    return len(tables) / total


def pearson(x: Float[Tensor, "n"], y: Float[Tensor, "n"]) -> tuple[float, float]:
    """Pearson's r and its two-sided p-value under independence of normal variables (Student's t with n - 2 degrees).

    NaN for both when either does not vary. Raises ValueError for fewer than three pairs.
    """
    if len(x) != len(y) or len(x) < 3:
        raise ValueError(f"a correlation needs at least three pairs, got {len(x)} and {len(y)} values")
    a, b = (v.double() - v.double().mean() for v in (x, y))
    spread = float(a.norm() * b.norm())
    if spread == 0:
        return math.nan, math.nan
    r = max(-1.0, min(1.0, float(a @ b) / spread))
    return r, _tail(abs(r), len(x))


def _tail(r: float, n: int, steps: int = 20000) -> float:
    """P(|R| >= r): with R = sin(angle), the density of the angle is proportional to cos(angle)^(n - 3)."""
    start = math.asin(r)
    angle = torch.linspace(start, math.pi / 2, steps + 1, dtype=torch.float64)
    tail = torch.trapezoid(angle.cos().clamp_min(0) ** (n - 3), angle)
    log_whole = math.lgamma((n - 2) / 2) - math.lgamma((n - 1) / 2) + 0.5 * math.log(math.pi)
    return min(1.0, float(2 * tail) / math.exp(log_whole))
