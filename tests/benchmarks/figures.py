"""Statistics of measured values: quantiles and growth."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import median

__all__ = ["exponent", "quantile", "spread"]


def quantile(values: Sequence[float], part: float) -> float:
    """The smallest value that is not below the fraction `part` of all values."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(part * len(ordered)) - 1)]


def spread(values: Sequence[float]) -> dict[str, float]:
    """Median, 99th percentile, maximum and count."""
    if not values:
        return {"count": 0}
    return {
        "count": len(values),
        "median": median(values),
        "p99": quantile(values, 0.99),
        "max": max(values),
    }


def exponent(points: Sequence[tuple[float, float]]) -> float:
    """The slope of the best straight line through the points on two logarithmic axes."""
    xs = [math.log(x) for x, _ in points]
    ys = [math.log(y) for _, y in points]
    x, y = sum(xs) / len(xs), sum(ys) / len(ys)
    rise = sum((a - x) * (b - y) for a, b in zip(xs, ys, strict=True))
    return rise / sum((a - x) ** 2 for a in xs)
