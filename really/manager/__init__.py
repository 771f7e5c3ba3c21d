"""SampleManager: one object in front of runners, buffer, agent, evaluation and checkpoints."""

from __future__ import annotations

from really._utils.public import publish as _publish
from really.manager.sample_manager import SampleManager

__all__ = ["SampleManager"]

_publish(globals())
