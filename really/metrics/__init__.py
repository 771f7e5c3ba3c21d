"""Training progress: curves, their files and figures, comparisons over seeds."""

from __future__ import annotations

from really.metrics.aggregator import Aggregator, Curve
from really.metrics.comparison import Comparison, compare

__all__ = ["Aggregator", "Comparison", "Curve", "compare"]
