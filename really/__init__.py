"""ReAllY, your Reinforcement Learning Ally: the names that users import."""

from __future__ import annotations

from really.envs.atari import atari
from really.errors import (
    ClosedError,
    DiskFullError,
    EmptyBufferError,
    EnvironmentFailedError,
    FileError,
    InvalidFileError,
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
from really.manager.sample_manager import SampleManager
from really.metrics.comparison import compare
from really.replay.buffer import ReplayBuffer

__version__ = "0.1.0"

__all__ = [
    "ClosedError",
    "DiskFullError",
    "EmptyBufferError",
    "EnvironmentFailedError",
    "FileError",
    "InvalidFileError",
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
