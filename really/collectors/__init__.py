"""Collectors: runners that step environments, the fleet that runs them, and the collection of whole results."""

from __future__ import annotations

from really._utils.public import publish as _publish
from really.collectors.background import BackgroundCollection

__all__ = ["BackgroundCollection"]

_publish(globals())
