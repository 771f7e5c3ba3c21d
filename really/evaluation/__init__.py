"""Evaluation: greedy episodes that are measured, shown in a window, or filmed."""

from __future__ import annotations

from really._utils.public import publish as _publish
from really.evaluation.evaluation import Evaluation

__all__ = ["Evaluation"]

_publish(globals())
