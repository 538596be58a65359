"""Means with bootstrap intervals, and slopes through the origin."""

import numpy as np


def mean_interval(values: list[float], draws: int = 2000, seed: int = 0) -> dict[str, float]:
    """Mean, its 95 % percentile-bootstrap interval and the count. Raises ValueError on no or non-finite values."""
    array = np.asarray(values, dtype=np.float64)
    if array.size == 0 or not np.isfinite(array).all():
        raise ValueError(f"cannot average {array.size} values of which {np.isnan(array).sum()} are NaN")
    index = np.random.default_rng(seed).integers(0, len(array), (draws, len(array)))
    low, high = np.percentile(array[index].mean(1), [2.5, 97.5])
    return {"mean": float(array.mean()), "low": float(low), "high": float(high), "count": len(array)}


def slope_through_origin(truth: list[float], measured: list[float]) -> float:
    """Least-squares factor between true and measured amounts."""
    x, y = np.asarray(truth), np.asarray(measured)
    return float((x * y).sum() / (x * x).sum())
