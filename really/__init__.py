"""ReAllY, your Reinforcement Learning Ally: the names that users import."""

from __future__ import annotations

import typing as _typing

from really._utils.public import loader as _loader
from really._utils.quiet import be_quiet as _be_quiet
from really.errors import (
    ClosedError,
    DiskFullError,
    EmptyBufferError,
    EnvironmentFailedError,
    FileError,
    InvalidFileError,
    InvalidStateError,
    InvalidTypeError,
    InvalidValueError,
    LockedError,
    MissingPackageError,
    ModelError,
    NotEnoughMemoryError,
    OvertakenError,
    ReadOnlyError,
    ReallyError,
    RunnerError,
    RunnerTimeoutError,
)

if _typing.TYPE_CHECKING:
    from really.agents.agent import Agent
    from really.envs.atari import atari
    from really.manager.sample_manager import SampleManager
    from really.metrics.comparison import compare
    from really.replay.buffer import ReplayBuffer
    from really.replay.mixture import Mixture
    from really.service.sharded_buffer import ShardedBuffer
else:
    # Loaded at their first use, so that `import really` needs nothing but NumPy.
    __getattr__ = _loader(
        globals(),
        *("checkpoints", "envs", "evaluation", "learners", "manager", "metrics", "models", "replay", "utils"),
        Agent="really.agents.agent",
        atari="really.envs.atari",
        SampleManager="really.manager.sample_manager",
        compare="really.metrics.comparison",
        ReplayBuffer="really.replay.buffer",
        Mixture="really.replay.mixture",
        ShardedBuffer="really.service.sharded_buffer",
    )

__version__ = "0.1.0"

_be_quiet()

__all__ = [
    "Agent",
    "ClosedError",
    "DiskFullError",
    "EmptyBufferError",
    "EnvironmentFailedError",
    "FileError",
    "InvalidFileError",
    "InvalidStateError",
    "InvalidTypeError",
    "InvalidValueError",
    "LockedError",
    "MissingPackageError",
    "Mixture",
    "ModelError",
    "NotEnoughMemoryError",
    "OvertakenError",
    "ReadOnlyError",
    "ReallyError",
    "ReplayBuffer",
    "RunnerError",
    "RunnerTimeoutError",
    "SampleManager",
    "ShardedBuffer",
    "atari",
    "compare",
]
