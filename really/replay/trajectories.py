"""Trajectories: which row follows which row of one agent, where episodes end, and which rows a draw may start from.

Rows come in chunks that have several agents' rows, and an agent's trajectory goes on in a later chunk.
`Trajectories` is an index of the rows that a ring holds. A sample unit makes one in `prepare` and asks it by numbers:

    index = Trajectories(ring, TrajectoryColumns.of(spec))
    before, after = index.steps_around(numbers)  # steps of the same episode that are held, before and after each row
    later = index.step_on(numbers, by)  # numbers of the rows `by` steps on in the same episode, -1 where none is held
    table = index.segments()  # one `Segment` for each episode, or part of one, that is held

Every answer is of the rows held at that moment. A row is followed by the agent's next row unless an episode ends with
it, one of both is removed, or the next row's `state` is not, bit for bit, the `state_new` that it led to: then rows
between them are lost.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from really._utils._locks import Lock
from really._utils.forks import ForkGroup, Order
from really.data.schema import Spec
from really.errors import EmptyBufferError, InvalidValueError
from really.replay._ring import Ring, WindowDraws
from really.replay._trajectories import RULES, TrajectoryIndex
from really.replay.arguments import refuse_few, sizes_of

AGENT = "agent"
ENDS = ("terminal", "truncated", "not_done")
"""Columns that tell where an episode ends. `episode_end` does so only without the last two: runners set it at the end
of each chunk, too."""
STATES = ("state", "obs", "observation")
PIECE = 1 << 16
"""Rows whose columns are read at a time."""
TRIES = 100
MOST_EMPTY = 64
"""So many agents may be without rows before their streams are taken for others."""
Numbers = NDArray[np.int64]
Flags = NDArray[np.bool_]


@dataclass(frozen=True)
class TrajectoryColumns:
    """The columns that tell trajectories apart.

    Attributes:
        agent: columns whose values together name the agent of a row; none if all rows are of one agent.
        ends: columns of which one says that an episode ends with the row.
        states: (state, next state), columns that say whether a row continues the row before it; none trusts the order.
    """

    agent: tuple[str, ...]
    ends: tuple[str, ...]
    states: tuple[tuple[str, str], ...] = ()

    @classmethod
    def of(
        cls, spec: Spec, *, what: str = "sequences", agent: Sequence[str] | None = None, checks_states: bool = True
    ) -> Self:
        """Those of this schema; `agent` by default the column "agent" if there is one.

        Raises InvalidValueError, naming `what`, if a column is missing or of another shape.
        """
        named = ((AGENT,) if AGENT in spec else ()) if agent is None else tuple(agent)
        columns = cls(named, ends_of(spec), _states(spec) if checks_states else ())
        check_columns(what, list(spec), agent)
        for name in columns.ends:
            dtype, shape = spec[name]
            if shape != () or dtype.kind not in "biuf":
                raise InvalidValueError(f"{what}: key {name!r}: expected a number, got {dtype} of {list(shape)}")
        return columns


class Segment(NamedTuple):
    """Columns [n] of a table: an episode, or the part of one that is held, a row."""

    first: Numbers
    """Number of the first row held."""
    last: Numbers
    """Number of the last row held."""
    length: Numbers
    """How many rows are held."""
    stream: Numbers
    """Which agent; `Trajectories.sums` has its values."""
    begins: Flags
    """Whether the first row held is the first of the episode."""
    ends: Flags
    """Whether the episode ends with the last row held."""


def agent_columns(agent: str | Iterable[str] | None) -> tuple[str, ...] | None:
    """The columns that tell agents apart, from one name or several. None, which stays None, leaves them to a schema."""
    return (agent,) if isinstance(agent, str) else None if agent is None else tuple(agent)


def check_columns(what: str, keys: Sequence[str], agent: Sequence[str] | None = None) -> None:
    """Raises InvalidValueError if no column tells where episodes end, or one that names agents is missing."""
    missing = [name for name in agent or () if name not in keys]
    if missing:
        raise InvalidValueError(f"{what}: expected the keys {missing}, which tell agents apart, got {list(keys)}")
    if not ends_of(keys):
        raise InvalidValueError(
            f"{what}: expected one of the keys {[*ENDS, 'episode_end']}, which tell where episodes end, got "
            f"{list(keys)}"
        )


def ends_of(keys: Sequence[str] | Spec) -> tuple[str, ...]:
    """Those of the columns that tell where episodes end."""
    found = tuple(name for name in ENDS if name in keys)
    knows_truncations = "truncated" in found or "not_done" in found
    return found if knows_truncations or "episode_end" not in keys else (*found, "episode_end")


class Trajectories:
    """The index of the rows that a ring holds; any number of threads may ask it.

    The index catches up with the ring at each call: it reads the new rows' columns once. It takes about 16 bytes a row.

    Args:
        ring: whose rows.
        columns: that tell trajectories apart.
        rule: which rows are starts, that is may be drawn: "windows" from which `least` steps go on, or that have
            `least_from_first` (1, or `least`) from an episode's first step on; "episodes" the first rows of whole ones;
            "steps" all rows of those.
        joins: whether windows go on in the agent's next episode.
        starts_at: a column, a number a row: rows where it is 0 are no starts. None bars none.

    Attributes:
        lock: what each answer holds.
        change_count: that of the ring when the index last caught up with it; -1 without one.
    """

    def __init__(
        self,
        ring: Ring,
        columns: TrajectoryColumns,
        *,
        rule: str = "windows",
        least: int = 1,
        least_from_first: int | None = None,
        joins: bool = False,
        starts_at: str | None = None,
    ) -> None:
        self._ring, self._columns, self.starts_at = ring, columns, starts_at
        self.least, self.rule = least, rule
        first = least if least_from_first is None else least_from_first
        self._index = TrajectoryIndex(ring.capacity, RULES[rule], least, first, joins, starts_at is not None)
        self._names = list(dict.fromkeys([*columns.agent, *columns.ends, *([] if starts_at is None else [starts_at])]))
        self._may_have_gaps = not isinstance(ring, Ring)  # rows of shards may be lost between two of one agent
        self._pairs = [(ring.names.index(state), ring.names.index(after)) for state, after in columns.states]
        self._streams: dict[Any, int] = {}  # by the agent
        self._agents: list[Any] = []  # by the stream; of an empty stream, an agent that it was of
        self._empty: list[int] = []  # streams that no agent has
        self._most_streams = MOST_EMPTY
        self._read = [*self._names, *(name for pair in columns.states for name in pair)]
        self._version = self.version
        self._known_to = self.change_count = -1
        self.lock = Lock()
        _live.add(self)

    @property
    def version(self) -> int:
        """A number that changes whenever rows that are held change, other than by puts, as far as the index goes."""
        return self._ring.version_of(self._read)

    def draw(self, shape: tuple[int, ...], *, distinct: bool = False) -> Numbers:
        """Numbers of starts [n] or [k, n], each equally likely; `distinct` draws each batch without replacement.

        Raises EmptyBufferError if there is none, InvalidValueError if there are too few for `distinct`.
        """
        with self.lock:
            index = self._caught_up()
            self._refuse_none()
            num, num_batches = sizes_of(shape)
            if distinct and num > index.num_starts:
                refuse_few("sample", num, index.num_starts, False)
            return index.starts_of_ranks(self._ring.draw_below(index.num_starts, num, num_batches, distinct))

    def are_starts(self, numbers: Numbers) -> Flags:
        """Whether each of these rows is held and a start, of the shape of `numbers`."""
        with self.lock:
            index = self._caught_up()
            return index.are_starts(_flat(numbers)).reshape(numbers.shape)

    def starts_if_below(self, num: int) -> Numbers | None:
        """Numbers of all starts, ascending; None if they are `num` or more."""
        with self.lock:
            index = self._caught_up()
            return index.all_starts() if index.num_starts < num else None

    def windows(self, starts: Numbers, length: int, burn_in: int = 0) -> tuple[Any, ...] | None:
        """`TrajectoryIndex.windows` of these rows [n]; None if one is no longer held."""
        with self.lock:
            index = self._caught_up()
            return index.windows(_flat(starts), length, burn_in)

    def draw_batch(self, shape: tuple[int, ...], length: int, burn_in: int = 0) -> dict[str, NDArray[Any]]:
        """Windows from starts that are equally likely, [*shape, length, ...]: the starts are those of `draw`.

        Raises EmptyBufferError if there is no start, or if puts drop rows all the time.
        """
        num = math.prod(shape)
        for _ in range(TRIES):
            with self.lock:
                index = self._caught_up()
                self._refuse_none()
                batch = self._ring.windows(index, None, num, length, burn_in)
                # Else an update has moved the end of an episode meanwhile, or a row was removed.
                is_current = self.version == self._version
            if batch is not None and is_current:
                return shaped(batch, shape)
        raise EmptyBufferError("sample: expected rows that stay while they are read, but some changed each time")

    def window_draws(self, length: int, burn_in: int = 0) -> WindowDraws:
        """What draws batches like `draw_batch` while no row is put, and need not ask the ring for its rows."""
        return WindowDraws(self._ring, self, self._index, length, burn_in)

    def batch(self, starts: Numbers, length: int, burn_in: int = 0) -> dict[str, NDArray[Any]] | None:
        """The windows from these rows on, [*starts.shape, length, ...]; None if one is no longer held."""
        with self.lock:
            index = self._caught_up()
            batch = self._ring.windows(index, _flat(starts), starts.size, length, burn_in)
        return None if batch is None else shaped(batch, starts.shape)

    def steps_around(self, numbers: Numbers) -> tuple[Numbers, Numbers]:
        """How many steps of the same episode are held before and after each row, of the shape of `numbers`.

        Both are -1 for rows that are not held.
        """
        with self.lock:
            index = self._caught_up()
            before, after = index.steps_around(_flat(numbers)).reshape(2, *numbers.shape)
            return before, after

    def step_on(self, numbers: Numbers, by: Numbers) -> Numbers:
        """Numbers of the rows `by` steps on in the same episode (back, if negative); -1 where none is held."""
        steps = by if by.shape == numbers.shape else np.broadcast_to(by, numbers.shape)
        with self.lock:
            index = self._caught_up()
            return index.step_on(_flat(numbers), _flat(steps)).reshape(numbers.shape)

    def goal_rows(
        self, numbers: Numbers, drawn: Numbers, k: float, strategy: int
    ) -> tuple[Numbers, Numbers, Flags] | None:
        """`TrajectoryIndex.goal_rows` of these rows [n], by 2 n `drawn` numbers."""
        with self.lock:
            return self._caught_up().goal_rows(_flat(numbers), drawn, k, strategy)

    def segments(self) -> Segment:
        """All episodes that have rows, by the number of their first row held; removed rows are in none."""
        with self.lock:
            return _segments(self._caught_up())[0]

    def sums(self, key: str | None) -> tuple[Segment, NDArray[np.float64], list[Any]]:
        """`segments`, and for each the sum of this column, a number a row, over the rows held; without a key, of 0.

        The last is stream -> value of the column that names the agent, or the bytes of several.
        """
        for _ in range(TRIES):
            with self.lock:
                index = self._caught_up()
                num = index.newest - index.oldest
                values = np.zeros(num, np.float64 if key is None else self._ring.dtypes[self._ring.names.index(key)])
                if key is None or num == 0 or self._ring.read_keys(index.oldest, num, {key: values}):
                    found, places = _segments(index)
                    return found, index.sum_segments(values.astype(np.float64))[places], self._agents.copy()
        raise EmptyBufferError("episodes: expected rows that stay while they are read, but puts dropped some each time")

    def changes(self, first: int, newest: int) -> tuple[Numbers, Numbers]:
        """Numbers of the rows that are starts now, and of rows that are none, of all that may differ from before.

        These are the rows from `first` to before `newest`, which the caller has not asked about, and those that have
        changed since the last call, whose `newest` is this call's `first`. Else they are all rows held.
        """
        with self.lock:
            index = self._caught_up()
            changed = index.take_log(newest)
            if changed is None or self._known_to != first:
                first, changed = index.oldest, np.zeros(0, np.int64)
            self._known_to = newest
            changed = np.concatenate([changed[changed < first], np.arange(first, newest)])
            are_starts = index.are_starts(changed)
            return changed[are_starts], changed[~are_starts]

    def refuse_none(self) -> None:
        """Raises EmptyBufferError if no row is a start."""
        with self.lock:
            self._caught_up()
            self._refuse_none()

    def reset_after_fork(self) -> None:
        """Replaces the lock, which a thread of the parent may have held in the middle of a change: starts again."""
        held, self.lock = self.lock.locked(), Lock()
        if held:
            self._version = self.change_count = -1

    def _caught_up(self) -> TrajectoryIndex:
        """With the lock held: the index, with the rows that were put since, and without those that were evicted."""
        index, ring = self._index, self._ring
        oldest, newest = ring.held_rows()
        self.change_count = ring.change_count if isinstance(ring, Ring) else -1
        version = self.version
        if version != self._version or newest < index.newest:
            self._version, self._known_to = version, -1
            index.clear(oldest)
        index.evict_before(oldest)
        for _ in range(TRIES):
            while index.newest < newest and self._append(min(newest, index.newest + PIECE)):
                pass
            if index.newest >= newest:
                return index
            oldest, newest = ring.held_rows()
            index.evict_before(oldest)
        raise EmptyBufferError("sample: expected rows that stay while they are read, but puts dropped some each time")

    def _append(self, end: int) -> bool:
        """Appends the rows before `end`; returns False if one of them was evicted meanwhile."""
        ring, first = self._ring, self._index.newest
        num = end - first
        places = {name: ring.names.index(name) for name in self._names}
        read = {name: np.empty((num, *ring.shapes[at]), ring.dtypes[at]) for name, at in places.items()}
        if read and not ring.read_keys(first, num, read):
            return False
        streams = self._streams_of(read, num)
        follows: Flags | None = np.ones(num, np.bool_)
        if self._pairs or self._may_have_gaps:
            follows = ring.continues(self._index.previous(streams), np.arange(first, end), self._pairs)
        if follows is None:
            return False
        removed = ring.are_removed(np.arange(first, end))
        barred = None if self.starts_at is None else read[self.starts_at] == 0
        self._index.append(streams, self._ends(read, num), follows, removed, barred)
        return True

    def _ends(self, read: dict[str, NDArray[Any]], num: int) -> Flags:
        ends = np.zeros(num, np.bool_)
        for name in self._columns.ends:
            ends |= (read[name] == 0) if name == "not_done" else (read[name] != 0)
        return ends

    def _streams_of(self, read: dict[str, NDArray[Any]], num: int) -> Numbers:
        """The stream of each row's agent."""
        columns = [read[name] for name in self._columns.agent]
        if not columns:
            return np.zeros(num, np.int64)
        value = columns[0] if len(columns) == 1 and columns[0].ndim == 1 else _as_bytes(columns, num)
        heads = np.flatnonzero(np.append(True, value[1:] != value[:-1]))
        found, which = np.unique(value[heads], return_inverse=True)
        if len(self._streams) > self._most_streams:
            self._take_empty_streams()
        numbers = [
            self._streams[agent] if agent in self._streams else self._new_stream(agent) for agent in found.tolist()
        ]
        lengths = np.diff(np.append(heads, num))
        return np.repeat(np.array(numbers, np.int64)[which.reshape(-1)], lengths)

    def _new_stream(self, agent: Any) -> int:
        """The stream of an agent that has none: an empty one, if there is one."""
        if self._empty:
            stream = self._empty.pop()
            self._agents[stream] = agent
        else:
            stream = len(self._agents)
            self._agents.append(agent)
        self._streams[agent] = stream
        return stream

    def _take_empty_streams(self) -> None:
        """Takes the streams of agents that have no rows, once these may be as many as the others."""
        empty = self._index.take_empty_streams(len(self._agents)).tolist()
        are_empty = set(empty)
        # No agent may have a stream that is given away, also if an interrupt comes between the two.
        self._streams = {agent: stream for agent, stream in self._streams.items() if stream not in are_empty}
        self._empty = empty
        self._most_streams = 2 * len(self._streams) + MOST_EMPTY

    def _refuse_none(self) -> None:
        if self._index.num_starts:
            return
        length = _segments(self._index)[0].length
        apart = "" if self._columns.agent else "; rows of several agents need a column that tells them apart"
        if self.rule != "windows":
            raise EmptyBufferError(
                f"sample: expected a whole episode, got none among {len(length):,} parts of some{apart}"
            )
        if self._columns.states and max(length, default=0) == 1 < len(length):
            apart += (
                "; an episode goes on only where a row's 'state' is the 'state_new' of the row before, unless "
                "checks_states=False trusts the order of the rows"
            )
        longest = max(length, default=0)
        if self.starts_at is not None and longest >= self.least:
            raise EmptyBufferError(
                f"sample: expected a row whose {self.starts_at!r} is not 0 with {self.least:,} steps of its episode "
                f"from there on, got none; the longest of {len(length):,} episodes has {longest:,} rows"
            )
        raise EmptyBufferError(
            f"sample: expected episodes of which {self.least:,} steps are held, the longest of {len(length):,} has "
            f"{longest:,}{apart}"
        )


_live = ForkGroup(Order.SAMPLERS, in_child=Trajectories.reset_after_fork)


def _states(spec: Spec) -> tuple[tuple[str, str], ...]:
    return tuple(_state_pairs(spec))


def _state_pairs(spec: Spec) -> Iterator[tuple[str, str]]:
    for key in spec:
        name, dot, leaf = key.partition(".")
        if name not in STATES:
            continue
        for after in (f"{name}_new{dot}{leaf}", f"next_{key}"):
            if after in spec and spec[after] == spec[key]:
                yield key, after


def shaped(batch: dict[str, NDArray[Any]], shape: tuple[int, ...]) -> dict[str, NDArray[Any]]:
    """Columns [prod(shape), ...] as [*shape, ...]."""
    if len(shape) == 1:
        return batch
    return {key: column.reshape(shape + column.shape[1:]) for key, column in batch.items()}


def _segments(index: TrajectoryIndex) -> tuple[Segment, Numbers]:
    """The segments by the number of their first row held, and the place of each in `index.segments()`.

    Places there depend on when rows were read: a segment keeps its own while its first rows drop out.
    """
    found = index.segments()
    places = np.argsort(found[:, 0], kind="stable")
    first, last, length, stream, begins, ends = found[places].T
    return Segment(first, last, length, stream, begins != 0, ends != 0), places


def _flat(numbers: Numbers) -> Numbers:
    return np.ascontiguousarray(numbers, np.int64).reshape(-1)


def _as_bytes(columns: Sequence[NDArray[Any]], num: int) -> NDArray[Any]:
    """The values of all columns of each row as one value."""
    parts = [np.ascontiguousarray(column).view(np.uint8).reshape(num, -1) for column in columns]
    joined = np.ascontiguousarray(np.concatenate(parts, axis=1))
    return joined.view(f"V{joined.shape[1]}").reshape(num)
