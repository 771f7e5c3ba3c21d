"""Learners for experience that `really` collected, one file each, to read or to copy; nothing else depends on them."""

from __future__ import annotations

from really.learners.dqn import DQNLearner, DQNUpdate

__all__ = ["DQNLearner", "DQNUpdate"]
