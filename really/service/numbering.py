"""Numbering: the numbers of rows in the order of puts, and draws of them as `ReplayBuffer` draws rows."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from really.data.schema import ColumnSpec, Spec
from really.errors import EmptyBufferError
from really.replay import arguments, engine
from really.replay.draws import drawn_in_ring, held
from really.replay.generator import BufferGenerator
from really.replay.newest import NewestSampler
from really.replay.options import BufferOptions
from really.replay.readers import Reader, Readers
from really.replay.samplers import TRIES, Sampler, Shape, UniformSampler
from really.replay.trajectories import Trajectories
from really.service.ledger import NOWHERE, Ledger

NO_COLUMNS: Spec = {"row": ColumnSpec(np.dtype(np.uint8), (0,))}
"""The schema of a ring that only counts: a row takes a byte, its padding."""


class Numbering:
    """A ring of the newest `capacity` rows, without their columns, and the sampler that draws from it.

    With the same options, seed and puts, the numbers are those that the sampler of a `ReplayBuffer` draws.

    Attributes:
        rows: what the sampler asks: the ring, unless it looks at columns or follows trajectories.

    Args:
        options: of the whole buffer.
        seed: what numbers are drawn from.
    """

    def __init__(self, options: BufferOptions, seed: arguments.Seed) -> None:
        self._generator = BufferGenerator(seed)
        self.sampler = options.make_sampler()
        self.sampler.start(options.capacity, self._generator.bit_generator, options.overcommit)
        self.ring = engine.make_ring(options.capacity, NO_COLUMNS, self._generator.bit_generator, [])
        self.sampler.prepare(self.ring)
        self.rows = self.ring
        self._readers = Readers()
        engine.track(self.ring)

    def held(self) -> tuple[int, int]:
        """Numbers of the oldest of the newest `capacity` rows, and of the next row."""
        return self.ring.held_rows()

    def begin(self, oldest: int, newest: int) -> None:
        """Makes the rows from number `oldest` to before `newest` those that are held; there were none before."""
        self.ring.set_first_number(max(oldest, newest - self.ring.capacity))
        self.advance(newest - self.ring.held_rows()[1])

    def advance(self, num: int) -> None:
        """Numbers `num` more rows."""
        self.ring.put({"row": np.empty((num, 0), np.uint8)})

    def restart(self, oldest: int, newest: int, priorities: Mapping[str, Any] | None) -> None:
        """`begin` in place of the rows that are held, with these priorities of them."""
        with self._readers.none_keeping(self.ring):
            self.ring.clear()
            self.begin(oldest, newest)
            if priorities is not None:
                self.sampler.load_priorities(priorities)

    def mark_missing(self, ledger: Ledger) -> None:
        """Marks the rows held that no shard has as removed; those of a shard that is away stay."""
        numbers = np.arange(*self.held())
        missing = numbers[ledger.whereabouts(numbers)[0] == NOWHERE]
        removed = np.union1d(missing, ledger.removed)
        if len(removed):
            self.ring.set_removed(removed)

    def clear(self) -> None:
        """Drops all rows; numbers continue. The caller is in `room_for` as many rows as there are."""
        self.ring.clear()

    def keep(self) -> Reader:
        """A reader of the numbers of the rows that are held; `room_for` waits for it."""
        return self._readers.open(self.ring, keeps=True)

    def room_for(self, num: int) -> AbstractContextManager[None]:
        """For a block that puts so many rows, once no reader of `keep` needs the rows that they drop.

        Enter it before the buffer's lock is taken.
        """
        return self._readers.room_for(self.ring, num)

    def without_puts(self) -> AbstractContextManager[None]:
        """For a block in which no rows are put. Enter it before the buffer's lock is taken."""
        return self._readers.room_for(self.ring, 0)

    def priorities(self, oldest: int, newest: int) -> dict[str, Any] | None:
        """What files keep of the priorities of these rows; None if the sampler has none.

        The caller is in `without_puts`, and has not the buffer's lock.
        """
        return self.sampler.priorities_of(self.rows, oldest, newest)

    def draw(
        self, shape: Shape, replace: bool, beta: float | None, ledger: Ledger, sampler: Sampler | None = None
    ) -> tuple[NDArray[np.int64], dict[str, Any]]:
        """Row numbers [n] or [k, n], and the sampler's columns; errors are those of `ReplayBuffer.sample`.

        A batch that may be drawn again gives its `sampler`, that of `Sampler.of_batch`.

        If rows are lost or away, the others are drawn, each with its probability among them, and the newest of them by
        `NewestSampler`. Weights are then those among all rows.
        """
        sampler = sampler or self.sampler.of_batch()
        oldest, newest = held("sample", self.ring).held_rows()
        if (num_missing := newest - oldest - ledger.num_rows) and num_missing == self.ring.num_removed:
            return self._draw_left(sampler, shape, replace, beta)
        if num_missing:
            return self._draw_survivors(sampler, shape, replace, beta, Survivors(self, ledger))
        if not sampler.in_ring:
            return sampler.draw(self.ring, shape, beta)
        return self.ages(shape, replace) + oldest, {}

    def _draw_survivors(
        self, sampler: Sampler, shape: Shape, replace: bool, beta: float | None, survivors: Survivors
    ) -> tuple[NDArray[np.int64], dict[str, Any]]:
        """`draw` if rows are lost or away."""
        survivors.refuse_none()
        if type(sampler) in (UniformSampler, NewestSampler):
            return survivors.draw(shape, distinct=not replace), {}
        try:
            return Sampler.draw_among(sampler, self.ring, shape, beta, cast(Trajectories, survivors), replace)
        except EmptyBufferError as error:
            raise EmptyBufferError(
                f"sample: expected rows that can be had, got rows of shards that are lost or away in {TRIES:,} draws "
                f"of {type(self.sampler).__name__}, which prefers them"
            ) from error

    def _draw_left(
        self, sampler: Sampler, shape: Shape, replace: bool, beta: float | None
    ) -> tuple[NDArray[np.int64], dict[str, Any]]:
        """`draw` if rows are removed, and none is lost or away."""
        if not sampler.in_ring:
            return sampler.draw_left(self.ring, shape, beta)
        return drawn_in_ring(self.ring, shape, replace), {}

    def ages(self, shape: Shape, replace: bool) -> NDArray[np.int64]:
        """Ages of rows, for a sampler that draws in the ring."""
        num, num_batches = arguments.sizes_of(shape)
        ages = self.ring.sample_ages(num, num_batches, not replace)
        if ages is None:
            arguments.refuse_few("sample", num, self.ring.num_choices, replace)
        return ages

    def state_dict(self) -> dict[str, Any]:
        """The state of the generators, as of `ReplayBuffer.state_dict`."""
        return self._generator.state_with(self.sampler, self.ring)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Sets the generators to what `state_dict` gave; raises InvalidValueError for anything else."""
        self._generator.set_state_with(self.sampler, self.ring, state)


class Survivors:
    """The rows that can still be had, as `Sampler.draw_among` asks for them."""

    starts_at: str | None = None

    def __init__(self, numbering: Numbering, ledger: Ledger) -> None:
        self._numbering, self._ledger = numbering, ledger

    def refuse_none(self) -> None:
        """Raises EmptyBufferError if no row can be had."""
        if self._ledger.num_rows == 0:
            raise EmptyBufferError("sample: expected a buffer with rows that can be had, got one whose shards are away")

    def are_starts(self, numbers: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Which of these rows can be had."""
        return self._ledger.can_be_had(numbers)

    def draw(self, shape: Shape, *, distinct: bool = False) -> NDArray[np.int64]:
        """Numbers of rows that can be had, each equally likely; of a sampler of the newest rows, of the newest ones."""
        ring, num_rows = self._numbering.ring, self._ledger.num_rows
        (num, num_batches), bound = arguments.sizes_of(shape), min(ring.num_choices, num_rows)
        if distinct and num > bound:
            arguments.refuse_few("sample", num, bound, False)
        ages = num_rows - bound + ring.draw_below(bound, num, num_batches, distinct)
        return self._ledger.numbers_at(ages)
