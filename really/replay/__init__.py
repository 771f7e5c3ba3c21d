"""The replay buffer: rows in, batches out. A buffer is a storage, a sampler and a sample unit."""

from __future__ import annotations

from really._utils.public import publish as _publish
from really.replay.buffer import ReplayBuffer
from really.replay.options import BufferOptions
from really.replay.priorities import Priorities
from really.replay.registry import SAMPLERS, UNITS
from really.replay.samplers import PrioritizedSampler, Sampler, UniformSampler
from really.replay.units import SampleUnit

__all__ = [
    "SAMPLERS",
    "UNITS",
    "BufferOptions",
    "Priorities",
    "PrioritizedSampler",
    "ReplayBuffer",
    "SampleUnit",
    "Sampler",
    "UniformSampler",
]

_publish(globals())
