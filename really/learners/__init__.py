"""Learners for experience that `really` collected, one file each, to read or to copy; nothing else depends on them."""

from __future__ import annotations

from really.learners.a2c import A2CLearner, A2CUpdate
from really.learners.dqn import DQNLearner, DQNUpdate
from really.learners.ppo import PPOLearner, PPOUpdate

__all__ = ["A2CLearner", "A2CUpdate", "DQNLearner", "DQNUpdate", "PPOLearner", "PPOUpdate"]
