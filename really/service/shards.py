"""The shards of a buffer as the learner sees them, and shards in its own process."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from really._ray.remote_rows import RemoteRows, fetched
from really._utils.memory_limits import available_bytes, refuse_if_too_big
from really.data.schema import Spec
from really.errors import InvalidValueError
from really.replay import engine
from really.replay.disk.schema import FolderOptions
from really.replay.options import BufferOptions
from really.replay.storages import FRAMES_SHARE
from really.replay.units import Batch
from really.service.publishing import OpenShard
from really.service.shard import Owner, Shard

NOTHING = {"held": 0, "naive": 0, "ratio": 1.0}
"""`memory` of a shard that is not started or does not answer."""
TIME_OUT = 4.0
"""Seconds after which a shard that does not answer is away: a batch that a lost host interrupts comes within five."""
PATIENCE = 300.0
"""Seconds that a shard may take to write its rows to the disk, or to return to a checkpoint."""
NO_OPTIONS = FolderOptions()
START_SECONDS = 60.0
"""How long shards may take to start."""
HEADROOM = 1.5
"""A shard has room for so many times its share of the rows."""
Answer = Callable[[], Batch | None]
"""Waits for a batch and returns it; None if the shard no longer holds one of its rows."""


class SilentShardError(Exception):
    """A shard gave no answer. `Shards.settle` says what that means for its rows."""


@dataclass(frozen=True)
class Event:
    """What happened to a shard since the last call of `Shards.settle`.

    Attributes:
        shard: which one.
        kind: "lost": its rows at places before `end` are gone. "away": it does not answer. "back": it answers again,
            with its rows. "refused": it refused a put, whose rows have the places from `start` to before `end`.
            "joined": it is a new one, on a node that joined, and its rows get places from `start` on.
        error: the error of the put.
    """

    shard: int
    kind: str
    start: int = 0
    end: int = 0
    error: Exception | None = None


@dataclass(frozen=True)
class Found:
    """What a shard's folder had when it was opened.

    Attributes:
        spec: the schema of its rows; None if it had no buffer.
        runs: the rows that are held, [run, 3]: number, place and length.
        next_place: the place after the last row.
        room: for how many rows it has room; that of a folder is as it was made.
        removed: number and place of the rows that are removed, [n, 2] int64.
        owner: which sharded buffer the folder is of; None if of none yet.
    """

    spec: Spec | None
    runs: NDArray[np.int64]
    next_place: int
    room: int
    removed: NDArray[np.int64]
    owner: Owner | None

    @classmethod
    def of(cls, shard: Shard) -> Self:
        """What a shard has."""
        return cls(shard.spec, shard.runs, shard.next_place, shard.capacity, shard.removed, shard.owner)


class Shards(Protocol):
    """Shards 0, 1, ...: they put and take by places. One caller's calls to a shard are carried out in order."""

    writable: bool
    """Whether rows may be put, changed and removed."""
    names: list[str]
    """What each shard is called in messages."""
    nodes: list[str]
    """The id of each shard's node; empty if all are in this process."""

    def settle(self) -> Sequence[Event]:
        """What happened since the last call, in order. It waits for no shard."""

    @property
    def rooms(self) -> NDArray[np.int64]:
        """For how many rows each shard has room, [shard]; 0 for one that is away or gone."""

    @property
    def sole(self) -> Shard | None:
        """The only shard, if there is no other and it is in this process; None before `start`."""

    def start(self, spec: Spec | None) -> list[Found]:
        """Makes the shards ready for rows of this schema, or opens what their folders have; says what that is.

        Without a schema, shards whose folders have none are not ready yet. Raises NotEnoughMemoryError if one has no
        room, and what `ReplayBuffer` raises for a folder that cannot be opened.
        """

    def put(self, shard: int, place: int, number: int, rows: Mapping[str, Any] | RemoteRows) -> None:
        """Puts rows into a shard, of which the first gets this place and this number.

        Raises what a buffer's `put` raises; a shard in another process tells it later, as an event.
        """

    def ask(self, shard: int, places: NDArray[np.int64]) -> Answer:
        """Asks a shard for the batch of the rows at these places, [n] or [k, n].

        The answer raises SilentShardError if it does not come.
        """

    def each(
        self, method: str, arguments: Sequence[tuple[Any, ...] | None] | None = None, limit: float | None = None
    ) -> list[Any]:
        """Calls a method of each shard, all at once, with the arguments of each; None leaves a shard out.

        A node may join while a caller without the buffer's lock waits. Shards after the last arguments are left out,
        and so is one that joins during the call.

        Returns the results in the order of the shards: None for one that was left out, is not started, or does not
        answer within `limit` seconds, by default the time-out. Raises the error that one of them raises.
        """

    def opened(self) -> list[OpenShard]:
        """How other processes read each shard; raises InvalidValueError if they cannot."""

    def close(self) -> None:
        """Ends the shards; rows in folders stay there."""


class LocalShards:
    """Shards in this process.

    Args:
        num: how many.
        options: of the whole buffer.
        path: a folder for those of the shards; None keeps rows in memory.
        given: options of the folders.
    """

    writable = True

    def __init__(
        self, num: int, options: BufferOptions, path: Path | None = None, given: FolderOptions = NO_OPTIONS
    ) -> None:
        self.names, self.nodes = [f"shard {number}" for number in range(num)], list[str]()
        self._options = options
        self._made = shard_options(options, room_of(options, num), given)
        self._rooms = np.full(num, self._made["capacity"])
        self._folders = [None if path is None else path / f"shard-{number:03d}" for number in range(num)]
        self._shards: list[Shard] = []

    def settle(self) -> Sequence[Event]:
        """As of `Shards`."""
        return ()

    @property
    def rooms(self) -> NDArray[np.int64]:
        """As of `Shards`."""
        return self._rooms

    @property
    def sole(self) -> Shard | None:
        """As of `Shards`."""
        return self._shards[0] if len(self._shards) == 1 else None

    def start(self, spec: Spec | None) -> list[Found]:
        """As of `Shards`."""
        self.close()
        made = self._made
        if self._folders[0] is None and spec is not None:
            made = made | self._in_memory(spec)
        for folder in self._folders:
            self._shards.append(Shard(**made, spec=spec, path=folder))
        self._rooms = np.array([shard.capacity for shard in self._shards])
        return [Found.of(shard) for shard in self._shards]

    def _in_memory(self, spec: Spec) -> dict[str, Any]:
        """Options of a shard in memory; raises NotEnoughMemoryError if there is no room for all of them."""
        options, num, room = self._options, len(self.names), int(self._made["capacity"])
        if not options.overcommit:
            what = f"a buffer of {options.capacity:,} rows in {num} shards with room for {num * room:,}"
            needed = engine.needed(what, num * room, spec, options.plan(spec))
            refuse_if_too_big(what, needed, engine.promised(), " (overcommit=True goes on)")
        limit = options.max_bytes or int(FRAMES_SHARE * (available_bytes() or engine.NO_LIMIT))
        return {"max_bytes": limit_of(limit, options, room), "overcommit": True}

    def put(self, shard: int, place: int, number: int, rows: Mapping[str, Any] | RemoteRows) -> None:
        """As of `Shards`."""
        self._shards[shard].put_at(place, number, fetched(rows))

    def ask(self, shard: int, places: NDArray[np.int64]) -> Answer:
        """As of `Shards`."""
        batch = self._shards[shard].take_at(places)
        return lambda: batch

    def each(
        self, method: str, arguments: Sequence[tuple[Any, ...] | None] | None = None, limit: float | None = None
    ) -> list[Any]:
        """As of `Shards`."""
        if not self._shards:
            return [None] * len(self.names if arguments is None else arguments)
        given = [()] * len(self._shards) if arguments is None else arguments
        return [
            None if each is None else getattr(shard, method)(*each)
            for shard, each in zip(self._shards[: len(given)], given, strict=True)
        ]

    def opened(self) -> list[OpenShard]:
        """As of `Shards`."""
        raise InvalidValueError("name: expected shards on nodes, which other processes read, got a number of shards")

    def close(self) -> None:
        """As of `Shards`."""
        for shard in self._shards:
            shard.close()
        self._shards = []


def room_of(options: BufferOptions, num_shards: int) -> int:
    """For how many rows each of `num_shards` shards has room.

    With several steps a shard may have to take all rows, since an episode stays in one.
    """
    if options.n_step > 1:
        return options.capacity
    return min(options.capacity, int(np.ceil(HEADROOM * options.capacity / num_shards)))


def shard_options(options: BufferOptions, room: int, given: FolderOptions) -> dict[str, Any]:
    """The options of one shard, whose rows the learner draws."""
    made = given._asdict() | {**options.to_dict(), "capacity": room, "alpha": None, "eps": None, "sampler": None}
    if not options.make_unit().in_ring:
        made["unit"] = None  # the learner makes its batches, of transitions
    if options.max_bytes is not None:
        made["max_bytes"] = limit_of(options.max_bytes, options, room)
    return made


def limit_of(max_bytes: int, options: BufferOptions, room: int) -> int:
    """The part of `max_bytes` that the frames of a shard with this room may take."""
    return max(1, min(max_bytes, -(-max_bytes * room // options.capacity)))


def ask_one(shards: Shards, shard: int, method: str, *arguments: Any) -> Any:
    """What a method of one shard gives; None if it does not answer."""
    given: list[tuple[Any, ...] | None] = [None] * len(shards.names)
    given[shard] = arguments
    return shards.each(method, given)[shard]
