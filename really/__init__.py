"""ReAllY, your Reinforcement Learning Ally: the names that users import."""

from __future__ import annotations

from really.atari_games import atari
from really.buffer import ReplayBuffer
from really.comparison import compare
from really.errors import (
    ClosedError,
    DiskFullError,
    EmptyBufferError,
    EnvironmentFailedError,
    FileError,
    InvalidTypeError,
    InvalidValueError,
    LockedError,
    ModelError,
    NotEnoughMemoryError,
    OvertakenError,
    ReadOnlyError,
    ReallyError,
    RunnerError,
    RunnerTimeoutError,
)
from really.manager import SampleManager

__version__ = "0.1.0"

__all__ = [
    "ClosedError",
    "DiskFullError",
    "EmptyBufferError",
    "EnvironmentFailedError",
    "FileError",
    "InvalidTypeError",
    "InvalidValueError",
    "LockedError",
    "ModelError",
    "NotEnoughMemoryError",
    "OvertakenError",
    "ReadOnlyError",
    "ReallyError",
    "ReplayBuffer",
    "RunnerError",
    "RunnerTimeoutError",
    "SampleManager",
    "atari",
    "compare",
]
