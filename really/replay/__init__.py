"""The replay buffer: rows in, batches out. A buffer is a storage, a sampler and a sample unit."""

from __future__ import annotations

from really._utils.public import publish as _publish
from really.replay.buffer import ReplayBuffer
from really.replay.compact import stacked
from really.replay.disk.verification import Verification
from really.replay.emphasized import EmphasizedSampler
from really.replay.episodes import Episodes, unpadded
from really.replay.half_life import HalfLifeSampler
from really.replay.hindsight import GOAL_FUNCTIONS, Hindsight
from really.replay.mixture import Mixture
from really.replay.newest import NewestSampler
from really.replay.options import BufferOptions
from really.replay.priorities import Priorities
from really.replay.registry import SAMPLERS, UNITS
from really.replay.samplers import PrioritizedSampler, Sampler, UniformSampler
from really.replay.sequences import Sequences, sequence_priorities
from really.replay.single_steps import Transitions
from really.replay.staleness import StalenessSampler
from really.replay.stratified import StratifiedSampler
from really.replay.units import SampleUnit

__all__ = [
    "GOAL_FUNCTIONS",
    "SAMPLERS",
    "UNITS",
    "BufferOptions",
    "EmphasizedSampler",
    "Episodes",
    "HalfLifeSampler",
    "Hindsight",
    "Mixture",
    "NewestSampler",
    "Priorities",
    "PrioritizedSampler",
    "ReplayBuffer",
    "SampleUnit",
    "Sampler",
    "Sequences",
    "StalenessSampler",
    "StratifiedSampler",
    "Transitions",
    "UniformSampler",
    "Verification",
    "sequence_priorities",
    "stacked",
    "unpadded",
]

_publish(globals())
