"""ReAllY, your Reinforcement Learning Ally: the names that users import."""

from __future__ import annotations

from really.atari_games import atari
from really.buffer import ReplayBuffer
from really.comparison import compare
from really.errors import (
    EmptyBufferError,
    EnvironmentFailedError,
    InvalidTypeError,
    InvalidValueError,
    ModelError,
    ReallyError,
    RunnerError,
    RunnerTimeoutError,
)
from really.manager import SampleManager

__version__ = "0.1.0"

__all__ = [
    "EmptyBufferError",
    "EnvironmentFailedError",
    "InvalidTypeError",
    "InvalidValueError",
    "ModelError",
    "ReallyError",
    "ReplayBuffer",
    "RunnerError",
    "RunnerTimeoutError",
    "SampleManager",
    "atari",
    "compare",
]
