"""The buffer of a manager: in one process, or in shards."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

from really.errors import InvalidTypeError
from really.replay.arguments import Seed
from really.replay.buffer import ReplayBuffer
from really.service.sharded_buffer import ShardedBuffer

Buffer = ReplayBuffer | ShardedBuffer


def made_buffer(
    size: int,
    keys: Sequence[str],
    seed: Seed,
    path: str | os.PathLike[str] | None,
    shards: Any,
    options: Mapping[str, Any],
) -> Buffer:
    """A buffer of these options; with `shards` its rows are in shards."""
    if "seed" in options:
        raise InvalidTypeError(
            f"initialize_buffer: expected no seed, got {options['seed']!r}; the buffer's follows from the manager's"
        )
    if shards is None:
        return ReplayBuffer(size, keys, seed=seed, path=path, **options)
    return ShardedBuffer(size, keys, shards=shards, seed=seed, path=path, **options)


def takes_remote_rows(buffer: Buffer) -> bool:
    """Whether the rows of runners may stay on their nodes, because shards are there."""
    return isinstance(buffer, ShardedBuffer) and buffer.takes_remote_rows
