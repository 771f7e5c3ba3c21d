"""The replay buffer: rows in, batches out."""

from __future__ import annotations

from really.replay.buffer import ReplayBuffer
from really.replay.priorities import Priorities

__all__ = ["Priorities", "ReplayBuffer"]
