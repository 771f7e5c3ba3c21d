"""ReAllY, your Reinforcement Learning Ally: the names that users import."""

from __future__ import annotations

from really.buffer import ReplayBuffer

__version__ = "0.1.0"

__all__ = ["ReplayBuffer"]
