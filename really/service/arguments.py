"""Checks of a sharded buffer's arguments."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from typing import Any

from really._utils.checks import checked_integer
from really._utils.names import OF_BUFFERS, check_names
from really.errors import InvalidTypeError, InvalidValueError
from really.replay.options import BufferOptions

BY_NUMBER = ("uniform", "prioritized", "newest", "half_life", "ere")
"""Samplers that need no columns of rows: the learner draws without asking the shards."""


def check_names_of_options(given: Iterable[str], constructor: Callable[..., Any]) -> None:
    """Raises InvalidTypeError for the first name that is no argument of a buffer in shards."""
    known = [*inspect.signature(BufferOptions.checked).parameters, *inspect.signature(constructor).parameters]
    check_names("ShardedBuffer", given, known, OF_BUFFERS)


def checked_options(options: BufferOptions) -> BufferOptions:
    """The options, if shards can be drawn from with them; raises InvalidValueError, naming the one that they lack."""
    if getattr(options.make_unit(), "compact", False):
        raise InvalidValueError(
            f"unit: expected compact=False for a ShardedBuffer, whose frames are in several shards, got "
            f"{options.unit}; frames of other nodes travel once to this process without it"
        )
    return options


def looks_at_columns(options: BufferOptions) -> bool:
    """Whether draws, or what becomes of them, need columns of rows: then shards are asked before and after a draw."""
    return not options.make_unit().in_ring or (options.sampler is not None and options.sampler[0] not in BY_NUMBER)


def checked_shards(shards: Any, capacity: int) -> int:
    """How many shards there are in this process; raises InvalidValueError or InvalidTypeError."""
    try:
        num = checked_integer("shards", shards, 1)
    except InvalidTypeError:
        raise InvalidTypeError(f"shards: expected a number, 'nodes' or a list of nodes, got {shards!r}") from None
    if num > capacity:
        raise InvalidValueError(f"shards: expected at most one for each of the {capacity} rows, got {num}")
    return num


def check_name(name: Any, options: BufferOptions | None = None) -> None:
    """Raises InvalidTypeError or InvalidValueError if a buffer, with these options, cannot have this name."""
    if not isinstance(name, str):
        raise InvalidTypeError(f"name: expected text, got {name!r}")
    if name == "":
        raise InvalidValueError("name: expected text, got none")
    if options is not None and looks_at_columns(options):
        kind = options.unit or options.sampler
        raise InvalidValueError(
            f"name: expected a buffer that draws single transitions or n_step by numbers ({', '.join(BY_NUMBER)}), as "
            f"other processes read its ledger alone, got {kind}"
        )
