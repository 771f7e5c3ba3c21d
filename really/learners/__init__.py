"""Learners for the experience that `really` collects: DQN, SAC, PPO and A2C, one file each, to use, read or copy."""

from __future__ import annotations

from really._utils.packages import needed as _needed
from really._utils.public import publish as _publish
from really._utils.quiet import without_start_lines as _without_start_lines

with _needed("really.learners", "TensorFlow", "tensorflow"), _without_start_lines():
    from really.learners.a2c import A2CLearner, A2CUpdate
    from really.learners.dqn import DQNLearner, DQNUpdate
    from really.learners.ppo import PPOLearner, PPOUpdate
    from really.learners.sac import Critic, SACLearner, SACUpdate

__all__ = [
    "A2CLearner",
    "A2CUpdate",
    "Critic",
    "DQNLearner",
    "DQNUpdate",
    "PPOLearner",
    "PPOUpdate",
    "SACLearner",
    "SACUpdate",
]

_publish(globals())
