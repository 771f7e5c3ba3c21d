"""Checks of a sharded buffer's arguments."""

from __future__ import annotations

from typing import Any

from really._utils.checks import checked_integer
from really.errors import InvalidTypeError, InvalidValueError
from really.replay.options import BufferOptions

BY_NUMBER = ("uniform", "prioritized", "newest", "half_life", "ere")
"""Samplers that need no columns of rows: the learner has none."""


def checked_options(options: BufferOptions) -> BufferOptions:
    """The options, if shards can be drawn from with them; raises InvalidValueError, naming the one that they lack."""
    if options.sampler is not None and options.sampler[0] not in BY_NUMBER:
        raise InvalidValueError(
            f"sampler: expected one that draws by numbers ({', '.join(map(repr, BY_NUMBER))}) for a ShardedBuffer, "
            f"got {options.sampler[0]!r}"
        )
    if options.unit is not None:
        raise InvalidValueError(
            f"unit: expected single transitions or n_step for a ShardedBuffer, got {options.unit[0]!r}"
        )
    return options


def checked_shards(shards: Any, capacity: int) -> int:
    """How many shards there are in this process; raises InvalidValueError or InvalidTypeError."""
    num = checked_integer("shards", shards, 1)
    if num > capacity:
        raise InvalidValueError(f"shards: expected at most one for each of the {capacity} rows, got {num}")
    return num


def check_name(name: Any) -> None:
    """Raises InvalidTypeError or InvalidValueError if a buffer cannot have this name."""
    if not isinstance(name, str):
        raise InvalidTypeError(f"name: expected text, got {name!r}")
    if name == "":
        raise InvalidValueError("name: expected text, got none")
