"""Training progress: the aggregator with its curves, files and figures, and comparisons of runs over seeds."""

from __future__ import annotations

from really._utils.public import publish as _publish
from really.metrics.aggregator import Aggregator
from really.metrics.comparison import Comparison, compare
from really.metrics.curves import ComparedCurve, Curve

__all__ = ["Aggregator", "ComparedCurve", "Comparison", "Curve", "compare"]

_publish(globals())
